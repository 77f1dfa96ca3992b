"""Which devices, in which processes, and compiled how.

`placement` says where arrays lie, `compiler` what XLA is told, `backend` what differs between CPU, GPU and TPU.
`processes` is for one model over the devices of several machines: jax computes across them; what
it leaves open is added, that all start or none (`rendezvous`), and that the loss of one ends the others with a line
where jax would crash (`peers`).
"""
