# The C API of fusedrnn for Cython: `cimport fusedrnn.kernels as rnn`. These are the declarations of include/fusedrnn.h,
# which documents them; docs/c-api.md and examples/c_api/ show how to use them. There is no module behind this file.
from libc.stdint cimport int64_t

cdef extern from "fusedrnn.h" nogil:
    enum:
        FUSEDRNN_ABI
        FUSEDRNN_OK
        FUSEDRNN_INVALID
        FUSEDRNN_MEMORY
        FUSEDRNN_INTERRUPTED
        FUSEDRNN_BUSY
        FUSEDRNN_INTERNAL
        FUSEDRNN_FLOAT32
        FUSEDRNN_FLOAT64

    const char *FUSEDRNN_WEIGHTS_CAPSULE

    ctypedef struct fusedrnn_weights
    ctypedef struct fusedrnn_tape
    ctypedef struct fusedrnn_stream

    # Set each struct to zero, then set its size: memset(&f, 0, sizeof(f)); f.size = sizeof(f)
    ctypedef struct fusedrnn_layer:
        size_t size
        const char *cell
        int dtype
        int training
        ptrdiff_t input_size
        ptrdiff_t hidden_size
        const void *W_ih
        const void *W_hh
        const void *b_ih
        const void *b_hh
        ptrdiff_t proj_size
        const void *W_hr
        double zoneout_h
        double zoneout_c
        const void *units

    ctypedef struct fusedrnn_info:
        size_t size
        const char *cell
        const char *isa
        int dtype
        int training
        int gates
        int states
        ptrdiff_t input_size
        ptrdiff_t hidden_size
        size_t nbytes
        ptrdiff_t output_size

    ctypedef struct fusedrnn_forward:
        size_t size
        ptrdiff_t T
        ptrdiff_t B
        const int64_t *lengths
        const void *x
        ptrdiff_t x_time
        ptrdiff_t x_batch
        const int64_t *tokens
        const void *h_0
        const void *c_0
        void *y
        ptrdiff_t y_time
        ptrdiff_t y_batch
        void *h_n
        void *c_n
        int reverse
        int (*interrupted)(void *argument) noexcept nogil
        void *interrupted_argument
        const void *recurrent_mask
        const unsigned char *zoneout_h
        const unsigned char *zoneout_c
        const unsigned char *mask
        const unsigned char *reset
        const void *h_initial
        const void *c_initial
        int packed

    ctypedef struct fusedrnn_backward:
        size_t size
        const void *dy
        ptrdiff_t dy_time
        ptrdiff_t dy_batch
        const void *dh_n
        const void *dc_n
        void *dx
        ptrdiff_t dx_time
        ptrdiff_t dx_batch
        int accumulate_dx
        void *dh_0
        void *dc_0
        void *dW_ih
        void *dW_hh
        void *db_ih
        void *db_hh
        int (*interrupted)(void *argument) noexcept nogil
        void *interrupted_argument
        void *dW_hr
        void *dh_initial
        void *dc_initial
        void *dunits

    ctypedef struct fusedrnn_api:
        size_t size
        int abi
        const char *version
        const char *(*message)() noexcept nogil
        int (*get_num_threads)() noexcept nogil
        int (*set_num_threads)(int n) noexcept nogil
        int (*weights_new)(const fusedrnn_layer *layer, fusedrnn_weights **weights) noexcept nogil
        int (*weights_share)(const fusedrnn_weights *weights, fusedrnn_weights **again) noexcept nogil
        int (*weights_info)(const fusedrnn_weights *weights, fusedrnn_info *info) noexcept nogil
        void (*weights_free)(fusedrnn_weights *weights) noexcept nogil
        int (*forward)(
            const fusedrnn_weights *weights, const fusedrnn_forward *arguments, fusedrnn_tape **tape
        ) noexcept nogil
        int (*backward)(const fusedrnn_tape *tape, const fusedrnn_backward *arguments) noexcept nogil
        size_t (*tape_nbytes)(const fusedrnn_tape *tape) noexcept nogil
        void (*tape_free)(fusedrnn_tape *tape) noexcept nogil
        int (*stream_new)(
            const fusedrnn_weights *const *weights, ptrdiff_t layers, ptrdiff_t B, fusedrnn_stream **stream
        ) noexcept nogil
        int (*stream_step)(fusedrnn_stream *stream, const void *x, void *y) noexcept nogil
        int (*stream_step_tokens)(fusedrnn_stream *stream, const int64_t *tokens, void *y) noexcept nogil
        int (*stream_get_state)(fusedrnn_stream *stream, void *h, void *c) noexcept nogil
        int (*stream_set_state)(fusedrnn_stream *stream, const void *h, const void *c) noexcept nogil
        int (*stream_reset)(fusedrnn_stream *stream, const unsigned char *rows) noexcept nogil
        void (*stream_free)(fusedrnn_stream *stream) noexcept nogil

    # Raises ValueError, MemoryError, KeyboardInterrupt or RuntimeError with the message when `code` is not 0.
    int fusedrnn_check(const fusedrnn_api *api, int code) except -1

cdef extern from "fusedrnn.h":
    # Call once, when the module is imported: cdef const fusedrnn_api *api = fusedrnn_import()
    const fusedrnn_api *fusedrnn_import() except NULL
