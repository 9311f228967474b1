"""Converting: a checkpoint of a library's own model, pickled or not, to a bundle; only ever by an explicit command.

``unpickling`` is a program that runs in a child process, and the only place that reads a stranger's pickle: by torch's
restricted reader, and under limits. ``child`` runs it; ``reading`` gives the tensors; ``mapping`` says which of them
are the backbone's and which the classifier's; ``making`` builds the model and saves it.
"""
