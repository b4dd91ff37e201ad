"""The DAGs, and the commands that run, compile, submit and schedule them."""
