"""Running a Graph over the steps of a sequence."""
