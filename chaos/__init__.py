"""chaos: breaks servers on purpose and judges, from evidence, what is left of them.

Owns the targets, the faults, the kernel's witness, the campaign and the oracles. It may import `supervisor`,
`workloads` and `reports`; none of them imports it.
"""
