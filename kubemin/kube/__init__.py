"""The way to a Kubernetes API server: where credentials are, and a client made of them.

`credentials` looks for them without importing anything heavy; `client` imports the official client (0.3 s, 36 MB), so
it is itself imported when first needed. May touch: the environment, the files of the credentials, the network.
"""
