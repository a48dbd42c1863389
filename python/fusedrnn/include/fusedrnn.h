/* The C API of fusedrnn, for C, C++ and Cython: pack weights, run sequences forward and backward, step through streams.
 *
 *     #include <Python.h>
 *     #include <fusedrnn.h>                                  // in the folder fusedrnn.get_include()
 *     const fusedrnn_api *rnn = fusedrnn_import();           // once, with the GIL; NULL with a Python exception set
 *
 * After the import nothing here touches Python: every function may be called with or without the GIL, from any thread,
 * and reports failure by its return code. docs/c-api.md is the full description; examples/c_api/ has programs.
 *
 * All arrays belong to the caller. They hold the layer's dtype, are aligned to one element, and have a contiguous last
 * axis. Shapes are written (T, B, I): T time, B batch, I input_size, H hidden_size, G gates (LSTM 4: i f g o; GRU 3:
 * r z n; RNN 1). In a projected layer, h and every array shaped like h (y, h_0, h_n, their gradients, recurrent_mask,
 * zoneout_h) has P = proj_size units where H is written. Results are bit for bit those of the Python layers.
 *
 * How the API grows without breaking compiled programs: structs begin with their size as the caller knew it, and new
 * members are added only at the end, where zero means "as before". So members that you do not set must be zero:
 *
 *     fusedrnn_forward f = {.size = sizeof f, .T = T, .B = B, .x = x, .y = y};     // C99, C++20
 *     fusedrnn_forward f{}; f.size = sizeof f; ...                                 // C++11
 */
#ifndef FUSEDRNN_H
#define FUSEDRNN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Version of the function table and all structs. Raised only when old programs could no longer work. */
#define FUSEDRNN_ABI 1

#define FUSEDRNN_CAPSULE "fusedrnn._core._C_API"    /* name of the capsule with the table */
#define FUSEDRNN_WEIGHTS_CAPSULE "fusedrnn_weights" /* name of those that frozen.c_weights() returns */

/* Return codes. After any code but FUSEDRNN_OK, message() describes the error. */
enum {
  FUSEDRNN_OK = 0,
  FUSEDRNN_INVALID = 1,     /* an argument is wrong; nothing was written */
  FUSEDRNN_MEMORY = 2,      /* too large, or no memory left; nothing was written */
  FUSEDRNN_INTERRUPTED = 3, /* interrupted() returned nonzero; outputs are half-written */
  FUSEDRNN_BUSY = 4,        /* the stream is in use by another thread */
  FUSEDRNN_INTERNAL = 5     /* a bug: please report it */
};

/* dtypes: the size of an element */
enum { FUSEDRNN_FLOAT32 = 4, FUSEDRNN_FLOAT64 = 8 };

/* Handles. Each is freed by its own function, from any thread; freeing NULL does nothing. A tape and a stream keep the
 * weights they need alive, so the weights may be freed first. */
typedef struct fusedrnn_weights fusedrnn_weights; /* packed weights of one layer in one direction; constant */
typedef struct fusedrnn_tape fusedrnn_tape;       /* what forward kept for backward; constant */
typedef struct fusedrnn_stream fusedrnn_stream; /* stacked one-directional layers, their state; one thread at a time */

/* A layer to pack. weights_new reads the arrays and does not keep them. The rows of a gate are contiguous, and gates
 * are in torch's order. */
typedef struct fusedrnn_layer {
  size_t size;      /* sizeof(fusedrnn_layer) */
  const char* cell; /* "rnn_tanh", "rnn_relu", "gru_after" (torch), "gru_before" (Cho), "gru_simple", "lstm"; or,
                     * without W_hh and b_hh: "mingru", "minlstm", "indrnn", "qrnn", "lru", "sru" and "rglru" (for I = H),
                     * "sru_wide", "rglru_wide" */
  int dtype;
  int training; /* nonzero: also pack what backward needs */
  ptrdiff_t input_size, hidden_size;
  const void *W_ih, *W_hh;     /* (G*H, I), (G*H, H), C-contiguous */
  const void *b_ih, *b_hh;     /* (G*H,); NULL: zeros */
  ptrdiff_t proj_size;         /* LSTM: units P < H of h and y; W_hh is then (G*H, P); 0: no projection */
  const void* W_hr;            /* (P, H), C-contiguous, with proj_size */
  double zoneout_h, zoneout_c; /* rates, 0 <= rate < 1: without a tape, units keep this share of their old values */
  /* (U, H), C-contiguous: parameters per unit of "indrnn", "sru", "rglru" and, then (U, H/2), "lru"; else NULL */
  const void* units;
} fusedrnn_layer;

/* Properties of packed weights. weights_info fills as many members as `size` covers. */
typedef struct fusedrnn_info {
  size_t size;      /* in: sizeof(fusedrnn_info) */
  const char* cell; /* valid as long as the library is loaded */
  const char* isa;  /* the ISA they were packed for; calls use it even if another is current by then */
  int dtype;
  int training;
  int gates, states; /* G; 2 for LSTM (h, c), else 1 */
  ptrdiff_t input_size, hidden_size;
  size_t nbytes;
  ptrdiff_t output_size; /* units of h: proj_size, or hidden_size */
} fusedrnn_info;

/* One layer over whole sequences. Outputs must not overlap each other, x or tokens; h_n may be the array h_0, and c_n
 * the array c_0. `*_time` and `*_batch` are strides in elements, from one step and from one row to the next; they may
 * be negative, and if both are 0 the array is C-contiguous. */
typedef struct fusedrnn_forward {
  size_t size; /* sizeof(fusedrnn_forward) */
  ptrdiff_t T, B;
  const int64_t* lengths; /* (B,), each 0 to T, in any order; NULL: T */
  const void* x;          /* (T, B, I); NULL: tokens */
  ptrdiff_t x_time, x_batch;
  const int64_t* tokens; /* (T, B), C-contiguous, each 0 to I - 1, in place of a one-hot x */
  const void *h_0, *c_0; /* (B, H), C-contiguous: before the first step; NULL: h_initial, c_initial. c: LSTM only */
  void* y;               /* (T, B, H), zeros past a row's length; NULL: not wanted */
  ptrdiff_t y_time, y_batch;
  void *h_n, *c_n;                    /* (B, H), C-contiguous; NULL: not wanted */
  int reverse;                        /* nonzero: from each row's last valid step to its first */
  int (*interrupted)(void* argument); /* called now and then, on the calling thread; nonzero ends the call. Or NULL */
  void* interrupted_argument;
  const void* recurrent_mask; /* (B, H), C-contiguous: factors of h in the recurrent product; NULL: 1. Only with tape */
  /* (T, B, H), C-contiguous: 1 where a unit keeps its old value, else 0; NULL: all 0. Only with a tape, and then
   * required if the weights have that zoneout rate. */
  const unsigned char *zoneout_h, *zoneout_c;
  /* (T, B), C-contiguous, or NULL. mask: 0 skips a step, and the state passes through. reset: not 0 puts a row at the
   * layer's own initial state before this step, t = 0 included, whatever h_0 is; in reverse, after this step and before
   * step t - 1, so that reset at t = 0 does nothing. Past a row's length neither has an effect. */
  const unsigned char *mask, *reset;
  const void *h_initial, *c_initial; /* (H,): the layer's own initial state, the same for all rows; NULL: zeros */
  /* Nonzero: every array over (T, B), also of backward, is packed instead: (T, ...), the steps of row 0, then those of
   * row 1, and so on. T is then the sum of the lengths, which are required; nothing is padded, and `*_batch` is not
   * read. */
  int packed;
} fusedrnn_forward;

/* Gradients of what forward computed. An input that is NULL means zeros, an output that is NULL is not wanted. Outputs
 * must not overlap each other or dy; dh_0 may be the array dh_n, and dc_0 the array dc_n. */
typedef struct fusedrnn_backward {
  size_t size;    /* sizeof(fusedrnn_backward) */
  const void* dy; /* (T, B, H); steps past a row's length are not read */
  ptrdiff_t dy_time, dy_batch;
  const void *dh_n, *dc_n; /* (B, H), C-contiguous */
  void* dx;                /* (T, B, I), zeros past a row's length; not for tokens */
  ptrdiff_t dx_time, dx_batch;
  int accumulate_dx;   /* nonzero: add to dx instead of overwriting it */
  void *dh_0, *dc_0;   /* (B, H), C-contiguous; in a row with resets, of the steps before the first */
  void *dW_ih, *dW_hh; /* shaped as the weights, C-contiguous; overwritten */
  void *db_ih, *db_hh; /* (G*H,) */
  int (*interrupted)(void* argument);
  void* interrupted_argument;
  void* dW_hr; /* (P, H), C-contiguous; overwritten */
  /* (H,): summed over all resets, and over the rows that began in h_initial, because there was no h_0; overwritten */
  void *dh_initial, *dc_initial;
  void* dunits; /* (U, H), C-contiguous; overwritten */
} fusedrnn_backward;

/* The function table. */
typedef struct fusedrnn_api {
  size_t size; /* of the library's table: at least that declared here, see fusedrnn_import */
  int abi;
  const char* version; /* of the package */

  /* The error message of this thread's last failed call; never NULL, valid until the thread's next failed call. */
  const char* (*message)(void);

  /* As in Python: fusedrnn.set_num_threads, OMP_NUM_THREADS and the affinity mask apply; n > 0 sets the number for
   * calls of this thread, 0 returns to the number of the process. Results do not depend on it. */
  int (*get_num_threads)(void);
  int (*set_num_threads)(int n);

  int (*weights_new)(const fusedrnn_layer* layer, fusedrnn_weights** weights);
  int (*weights_share)(const fusedrnn_weights* weights, fusedrnn_weights** again); /* a second handle, no copy */
  int (*weights_info)(const fusedrnn_weights* weights, fusedrnn_info* info);
  void (*weights_free)(fusedrnn_weights* weights);

  /* tape: receives a new tape (weights packed for training); NULL: inference. A tape owns its data: x may change. */
  int (*forward)(const fusedrnn_weights* weights, const fusedrnn_forward* arguments, fusedrnn_tape** tape);
  int (*backward)(const fusedrnn_tape* tape, const fusedrnn_backward* arguments); /* any number of times */
  size_t (*tape_nbytes)(const fusedrnn_tape* tape);
  void (*tape_free)(fusedrnn_tape* tape);

  /* `layers` weights, from the input layer up, of one cell, dtype, hidden_size and proj_size; the state starts at zero.
   * A step runs on the calling thread, allocates nothing, takes no lock and makes no system call. */
  int (*stream_new)(const fusedrnn_weights* const* weights, ptrdiff_t layers, ptrdiff_t B, fusedrnn_stream** stream);
  int (*stream_step)(fusedrnn_stream* stream, const void* x, void* y); /* (B, I) -> (B, H), C-contiguous */
  int (*stream_step_tokens)(fusedrnn_stream* stream, const int64_t* tokens, void* y); /* (B,) */
  int (*stream_get_state)(fusedrnn_stream* stream, void* h, void* c);                 /* each (layers, B, H), or NULL */
  int (*stream_set_state)(fusedrnn_stream* stream, const void* h, const void* c);     /* NULL: unchanged */
  int (*stream_reset)(fusedrnn_stream* stream,
                      const unsigned char* rows); /* zeros the rows where rows (B,) is not 0; NULL: all rows */
  void (*stream_free)(fusedrnn_stream* stream);
} fusedrnn_api;

#ifdef Py_PYTHON_H

/* The function table of the installed fusedrnn, valid until the process ends; or NULL with a Python exception set. */
static inline const fusedrnn_api* fusedrnn_import(void) {
  const fusedrnn_api* api;
  PyObject* package = PyImport_ImportModule("fusedrnn"); /* PyCapsule_Import would hide why the import failed */
  if (!package) return NULL;
  Py_DECREF(package);
  api = (const fusedrnn_api*)PyCapsule_Import(FUSEDRNN_CAPSULE, 0);
  if (!api) return NULL;
  if (api->abi != FUSEDRNN_ABI || api->size < sizeof(fusedrnn_api)) {
    PyErr_Format(PyExc_ImportError,
                 "compiled for fusedrnn ABI %d with a table of %zu bytes; fusedrnn %s has ABI %d and %zu bytes: %s",
                 FUSEDRNN_ABI, sizeof(fusedrnn_api), api->version, api->abi, api->size,
                 api->abi == FUSEDRNN_ABI ? "update fusedrnn" : "compile again");
    return NULL;
  }
  return api;
}

/* Turns a return code into a Python exception: returns 0, or -1 with an exception set. Works with or without the GIL,
 * and takes it only on failure. */
static inline int fusedrnn_check(const fusedrnn_api* api, int code) {
  if (code == FUSEDRNN_OK) return 0;
  {
    const PyGILState_STATE gil = PyGILState_Ensure();
    PyObject* kind = code == FUSEDRNN_INVALID       ? PyExc_ValueError
                     : code == FUSEDRNN_MEMORY      ? PyExc_MemoryError
                     : code == FUSEDRNN_INTERRUPTED ? PyExc_KeyboardInterrupt
                                                    : PyExc_RuntimeError;
    if (!PyErr_Occurred()) PyErr_SetString(kind, api->message());
    PyGILState_Release(gil);
  }
  return -1;
}

#endif

#ifdef __cplusplus
}
#endif

#endif
