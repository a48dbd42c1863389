"""The whole benchmark, for a clone: `python -m benchmarks` has the options of `python -m fusedrnn bench`.

`fusedrnn.bench` has the cases, the checks, the clock and the report. What is here needs more than packages for Python:
oneDNN from C++ and the machine's probes want a compiler, JAX and Keras are installed for the published run alone.
"""
