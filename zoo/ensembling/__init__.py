"""Several models as one: ``zoo.ensemble``.

``making`` is the way from members to an :class:`Ensemble`, ``spec`` says what one is as data. ``aligning`` puts the
members' classes in one order, ``feeding`` gives each member its own tensor of a picture and ``views`` several of one,
``sharing`` runs a backbone once that members have in common, ``combining`` makes one output of many, and
``uncertainty`` says how far they are apart. ``solving`` finds weights from outputs and labels; ``averaging`` makes one
model of many by the mean of their weights.
"""
