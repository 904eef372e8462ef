"""One module for each part of the table; each has `run(stage)`, which leaves its figures in the stage."""
