"""The parts of distillation: the teacher, what is paired of it with the student, its answers, and what is lost."""
