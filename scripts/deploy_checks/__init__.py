"""One module a subject; each registers its checks with `judge.check`."""
