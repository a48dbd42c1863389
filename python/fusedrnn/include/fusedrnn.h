/* fusedrnn's kernels for C, C++ and Cython: pack weights, run sequences forward and backward, step through streams.
 *
 *     #include <Python.h>
 *     #include <fusedrnn.h>                                  // its folder: fusedrnn.get_include()
 *     const fusedrnn_api *rnn = fusedrnn_import();           // once, with the GIL; NULL with a Python exception set
 *
 * After that nothing here touches Python: every function may be called with or without the GIL, from any thread, and
 * reports failure by its return code. docs/c-api.md tells the whole story; examples/c_api/ has programs.
 *
 * Arrays are the caller's. They hold the layer's dtype, aligned to one element, with contiguous last axis; shapes are
 * written (T, B, I): T time, B batch, I input_size, H hidden_size, G gates (LSTM 4: i f g o; GRU 3: r z n; RNN 1). Of a
 * projected layer, h and whatever is shaped as h (y, dy, states, masks) has P = proj_size units where H is written.
 * What is computed, and its bits, are those of the Python layers.
 *
 * How it grows without breaking what is compiled already: structs begin with their size as the caller knew it, and get
 * new members at the end only, where zero means "as before". So what you do not set has to be zero:
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

/* Of the function table and all structs. Raised only when old programs could no longer work. */
#define FUSEDRNN_ABI 1

#define FUSEDRNN_CAPSULE "fusedrnn._core._C_API"    /* name of the capsule with the table */
#define FUSEDRNN_WEIGHTS_CAPSULE "fusedrnn_weights" /* and of those that frozen.c_weights() returns */

/* What functions return. After any but FUSEDRNN_OK, message() says more. */
enum {
  FUSEDRNN_OK = 0,
  FUSEDRNN_INVALID = 1,     /* an argument is wrong; nothing was written */
  FUSEDRNN_MEMORY = 2,      /* too large, or no memory left; nothing was written */
  FUSEDRNN_INTERRUPTED = 3, /* interrupted() returned nonzero; outputs are half-written */
  FUSEDRNN_BUSY = 4,        /* the stream is in use by another thread */
  FUSEDRNN_INTERNAL = 5     /* should not happen: please report */
};

/* dtypes: the size of an element */
enum { FUSEDRNN_FLOAT32 = 4, FUSEDRNN_FLOAT64 = 8 };

/* Each is freed by its own function, from any thread; freeing NULL does nothing. A tape and a stream hold on to the
 * weights they need: these may be freed first. */
typedef struct fusedrnn_weights fusedrnn_weights; /* packed, of one layer in one direction; never changes */
typedef struct fusedrnn_tape fusedrnn_tape;       /* what forward kept for backward; never changes */
typedef struct fusedrnn_stream fusedrnn_stream;   /* stacked one-way layers and their state; one thread at a time */

/* What to pack. Weights are read, not kept. Rows of a gate lie together, in torch's order of gates. */
typedef struct fusedrnn_layer {
  size_t size;      /* sizeof(fusedrnn_layer) */
  const char* cell; /* "rnn_tanh", "rnn_relu", "gru_after" (torch), "gru_before" (Cho), "gru_simple", "lstm" */
  int dtype;
  int training; /* nonzero: pack what backward needs, too */
  ptrdiff_t input_size, hidden_size;
  const void *W_ih, *W_hh;     /* (G*H, I), (G*H, H), C-contiguous */
  const void *b_ih, *b_hh;     /* (G*H,); NULL: zeros */
  ptrdiff_t proj_size;         /* LSTM: units P < H of h, of y and of what W_hh, then (G*H, P), is for; 0: H */
  const void* W_hr;            /* (P, H), C-contiguous, with proj_size */
  double zoneout_h, zoneout_c; /* rates, 0 <= rate < 1: without a tape units keep this share of their old values */
} fusedrnn_layer;

/* What weights are. Filled by weights_info, as much of it as `size` covers. */
typedef struct fusedrnn_info {
  size_t size;      /* in: sizeof(fusedrnn_info) */
  const char* cell; /* lives as long as the library */
  const char* isa;  /* what they were packed for; calls run with it whatever is current by then */
  int dtype;
  int training;
  int gates, states; /* G; 2 for LSTM (h, c), else 1 */
  ptrdiff_t input_size, hidden_size;
  size_t nbytes;
  ptrdiff_t output_size; /* units of h: proj_size, or hidden_size */
} fusedrnn_info;

/* One layer over whole sequences. Outputs must not overlap each other, x or tokens; h_n may be h_0, and c_n c_0.
 * `*_time` and `*_batch` count elements from one step, one row to the next, may be negative, and when both are 0 the
 * array is C-contiguous. */
typedef struct fusedrnn_forward {
  size_t size; /* sizeof(fusedrnn_forward) */
  ptrdiff_t T, B;
  const int64_t* lengths; /* (B,), each 0 to T, in any order; NULL: T */
  const void* x;          /* (T, B, I); NULL: tokens */
  ptrdiff_t x_time, x_batch;
  const int64_t* tokens; /* (T, B), C-contiguous, each 0 to I - 1: a one-hot x */
  const void *h_0, *c_0; /* (B, H), C-contiguous; NULL: zeros. c is LSTM's */
  void* y;               /* (T, B, H), zeros past a row's length; NULL: not wanted */
  ptrdiff_t y_time, y_batch;
  void *h_n, *c_n;                    /* (B, H), C-contiguous; NULL: not wanted */
  int reverse;                        /* nonzero: from each row's last valid step to its first */
  int (*interrupted)(void* argument); /* asked now and then, on the calling thread; nonzero ends the call. Or NULL */
  void* interrupted_argument;
  const void* recurrent_mask; /* (B, H), C-contiguous: factors of h in the recurrent product; NULL: ones. With a tape */
  /* (T, B, H), C-contiguous, 1 where a unit keeps its old value, else 0; NULL: nowhere. With a tape, and then needed
   * where the weights have such a rate. */
  const unsigned char *zoneout_h, *zoneout_c;
} fusedrnn_forward;

/* Gradients of what forward computed. Inputs that are NULL are zeros, outputs that are NULL are not wanted. Outputs
 * must not overlap each other or dy; dh_0 may be dh_n, and dc_0 dc_n. */
typedef struct fusedrnn_backward {
  size_t size;    /* sizeof(fusedrnn_backward) */
  const void* dy; /* (T, B, H); what lies past a row's length is not read */
  ptrdiff_t dy_time, dy_batch;
  const void *dh_n, *dc_n; /* (B, H), C-contiguous */
  void* dx;                /* (T, B, I), zeros past a row's length; not for tokens */
  ptrdiff_t dx_time, dx_batch;
  int accumulate_dx;   /* nonzero: add to dx */
  void *dh_0, *dc_0;   /* (B, H), C-contiguous */
  void *dW_ih, *dW_hh; /* shaped as the weights, C-contiguous; overwritten */
  void *db_ih, *db_hh; /* (G*H,) */
  int (*interrupted)(void* argument);
  void* interrupted_argument;
  void* dW_hr; /* (P, H), C-contiguous; overwritten */
} fusedrnn_backward;

/* The function table. */
typedef struct fusedrnn_api {
  size_t size; /* of the library's table: at least the one declared here, see fusedrnn_import */
  int abi;
  const char* version; /* of the package */

  /* What went wrong in the last call of this thread that failed; never NULL, valid until the next that fails. */
  const char* (*message)(void);

  /* As in Python: fusedrnn.set_num_threads, OMP_NUM_THREADS and the affinity mask count; n > 0 is for calls of this
   * thread, 0 goes back to what the process has. Results do not depend on it. */
  int (*get_num_threads)(void);
  int (*set_num_threads)(int n);

  int (*weights_new)(const fusedrnn_layer* layer, fusedrnn_weights** weights);
  int (*weights_share)(const fusedrnn_weights* weights, fusedrnn_weights** again); /* a second handle, no copy */
  int (*weights_info)(const fusedrnn_weights* weights, fusedrnn_info* info);
  void (*weights_free)(fusedrnn_weights* weights);

  /* tape: where to put one, for weights packed for training; NULL: inference. It owns all it needs: x may change. */
  int (*forward)(const fusedrnn_weights* weights, const fusedrnn_forward* arguments, fusedrnn_tape** tape);
  int (*backward)(const fusedrnn_tape* tape, const fusedrnn_backward* arguments); /* as often as you like */
  size_t (*tape_nbytes)(const fusedrnn_tape* tape);
  void (*tape_free)(fusedrnn_tape* tape);

  /* `layers` of them from the input up, of one cell, dtype, hidden_size and proj_size; the state starts at zero. A step
   * runs on the calling thread, allocates nothing, takes no lock and asks nothing of the system. */
  int (*stream_new)(const fusedrnn_weights* const* weights, ptrdiff_t layers, ptrdiff_t B, fusedrnn_stream** stream);
  int (*stream_step)(fusedrnn_stream* stream, const void* x, void* y); /* (B, I) -> (B, H), C-contiguous */
  int (*stream_step_tokens)(fusedrnn_stream* stream, const int64_t* tokens, void* y); /* (B,) */
  int (*stream_get_state)(fusedrnn_stream* stream, void* h, void* c);                 /* each (layers, B, H), or NULL */
  int (*stream_set_state)(fusedrnn_stream* stream, const void* h, const void* c);     /* NULL: as it is */
  int (*stream_reset)(fusedrnn_stream* stream,
                      const unsigned char* rows); /* zeros where rows (B,) is not 0; NULL: all */
  void (*stream_free)(fusedrnn_stream* stream);
} fusedrnn_api;

#ifdef Py_PYTHON_H

/* The table of the installed fusedrnn, valid until the process ends; or NULL with a Python exception set. */
static inline const fusedrnn_api* fusedrnn_import(void) {
  const fusedrnn_api* api;
  PyObject* package = PyImport_ImportModule("fusedrnn"); /* PyCapsule_Import would not say why it failed */
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

/* Turns a return code into a Python exception: 0, or -1 with one set. Without the GIL, too; takes it on failure only.
 */
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
