# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""A recurrent audio effect, sample by sample, as a plug-in's callback runs it: no GIL, no Python, no allocation.

    export C_INCLUDE_PATH=$(python -c "import fusedrnn; print(fusedrnn.get_include())")
    cythonize -i -3 audio_loop.pyx && python play.py
"""
from cpython.pycapsule cimport PyCapsule_GetPointer
from fusedrnn cimport kernels as rnn
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

import numpy as np

cdef const rnn.fusedrnn_api *api = rnn.fusedrnn_import()


cdef long long now_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec * 1_000_000_000LL + t.tv_nsec


cdef class Effect:
    """out[t] = w . h[t] + x[t], where h is what one recurrent layer with one input makes of the samples so far."""
    cdef rnn.fusedrnn_stream *stream
    cdef float[::1] w, h

    def __cinit__(self, frozen, float[::1] w):
        capsules = frozen.c_weights()
        cdef const rnn.fusedrnn_weights *weights = <const rnn.fusedrnn_weights *> PyCapsule_GetPointer(
            capsules[0], rnn.FUSEDRNN_WEIGHTS_CAPSULE)
        rnn.fusedrnn_check(api, api.stream_new(&weights, 1, 1, &self.stream))
        self.w, self.h = w, np.zeros(frozen.hidden_size, np.float32)

    def __dealloc__(self):
        api.stream_free(self.stream)

    cdef int process(self, const float *x, float *out, Py_ssize_t n) except -1 nogil:
        """The callback: n samples in, n samples out."""
        cdef Py_ssize_t t, k
        for t in range(n):
            rnn.fusedrnn_check(api, api.stream_step(self.stream, &x[t], &self.h[0]))
            out[t] = x[t]
            for k in range(self.h.shape[0]):
                out[t] += self.w[k] * self.h[k]
        return 0

    def run(self, const float[::1] sound, float[::1] out, Py_ssize_t block):
        """Process a whole sound block by block; returns each block's nanoseconds."""
        cdef Py_ssize_t k, blocks = sound.shape[0] // block
        cdef long long[::1] taken = np.zeros(blocks, np.int64)
        cdef long long start
        with nogil:
            for k in range(blocks):
                start = now_ns()
                self.process(&sound[k * block], &out[k * block], block)
                taken[k] = now_ns() - start
        return np.asarray(taken)


def step_ns(frozen, Py_ssize_t steps, Py_ssize_t repeats):
    """Nanoseconds of one stream_step with batch size 1: the best of `repeats` runs of `steps` steps."""
    cdef float[::1] x = np.random.default_rng(0).standard_normal(frozen.input_size, np.float32)
    cdef float[::1] y = np.zeros(frozen.hidden_size, np.float32)
    cdef const rnn.fusedrnn_weights *weights
    cdef rnn.fusedrnn_stream *stream = NULL
    cdef long long start, best = 1 << 62
    capsules = frozen.c_weights()
    weights = <const rnn.fusedrnn_weights *> PyCapsule_GetPointer(capsules[0], rnn.FUSEDRNN_WEIGHTS_CAPSULE)
    rnn.fusedrnn_check(api, api.stream_new(&weights, 1, 1, &stream))
    with nogil:
        for _ in range(repeats):
            start = now_ns()
            for _ in range(steps):
                api.stream_step(stream, &x[0], &y[0])
            best = min(best, now_ns() - start)
    api.stream_free(stream)
    return best / steps
