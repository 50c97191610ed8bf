"""What a machine with a GPU has to say about the kernels, in the minutes that one is at hand.

``binaries`` compiles beforehand what is carried there; ``calls`` lists the parts of a call,
``running`` runs them, ``summary`` says in one page what they found; ``rehearsal`` does all of it
without a GPU.
"""
