"""Ready-made tasks that train, save, resume and use recurrent layers; `gatewise` on the command line.

`gatewise.tasks.text` is a language model over characters. What any task needs stands next to it: the
settings and the loop (`settings`, `fit`, `trainee`, `keeper`), the run folder (`run`, `checkpoint`) and what
is shown (`progress`, `plot`). Importing a task is cheap: torch and Lightning are loaded at their first use.
"""
