/* Trains a GRU to continue sine waves, then lets it: plain C from packing to streaming. Python is only started to find
 * the kernels.
 *
 *     cc -O2 sine.c -o sine -I$(python -c "import fusedrnn; print(fusedrnn.get_include())") \
 *        $(python3-config --includes --embed --ldflags) -lm
 *     PYTHONPATH=$(python -c "import sys; print(':'.join(sys.path[1:]))") ./sine
 */
#include <Python.h>

#include <fusedrnn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { T = 40, B = 16, H = 32, G = 3 };

/* Everything that is learned, in one block so that the update is one loop; and its gradient, likewise. */
typedef struct {
  float W_ih[G * H], W_hh[G * H * H], b_ih[G * H], b_hh[G * H], w[H];
} parameters;
enum { COUNT = sizeof(parameters) / sizeof(float) };

static const fusedrnn_api* rnn;

static void must(int code) {
  if (code == FUSEDRNN_OK) return;
  fprintf(stderr, "%s\n", rnn->message());
  exit(1);
}

static float uniform(void) { return (float)rand() / (float)RAND_MAX; }

static fusedrnn_weights* pack(const parameters* p, int training) {
  fusedrnn_weights* weights;
  const fusedrnn_layer layer = {.size = sizeof layer,
                                .cell = "gru_after",
                                .dtype = FUSEDRNN_FLOAT32,
                                .training = training,
                                .input_size = 1,
                                .hidden_size = H,
                                .W_ih = p->W_ih,
                                .W_hh = p->W_hh,
                                .b_ih = p->b_ih,
                                .b_hh = p->b_hh};
  must(rnn->weights_new(&layer, &weights));
  return weights;
}

/* Mean squared error of w . h[t] against x[t + 1], and its gradient by every parameter. */
static float loss_and_gradient(const parameters* p, const float x[T + 1][B], parameters* d) {
  static float y[T][B][H], dy[T][B][H];
  float loss = 0;
  int t, b, k;
  fusedrnn_weights* weights = pack(p, 1);
  fusedrnn_tape* tape;
  const fusedrnn_forward forward = {.size = sizeof forward, .T = T, .B = B, .x = x, .y = y};
  const fusedrnn_backward backward = {
      .size = sizeof backward, .dy = dy, .dW_ih = d->W_ih, .dW_hh = d->W_hh, .db_ih = d->b_ih, .db_hh = d->b_hh};
  must(rnn->forward(weights, &forward, &tape));
  rnn->weights_free(weights); /* the tape has what it needs */

  for (k = 0; k < H; ++k) d->w[k] = 0;
  for (t = 0; t < T; ++t)
    for (b = 0; b < B; ++b) {
      float error = -x[t + 1][b], scale;
      for (k = 0; k < H; ++k) error += p->w[k] * y[t][b][k];
      loss += error * error / (T * B);
      scale = 2 * error / (T * B);
      for (k = 0; k < H; ++k) d->w[k] += scale * y[t][b][k], dy[t][b][k] = scale * p->w[k];
    }

  must(rnn->backward(tape, &backward));
  rnn->tape_free(tape);
  return loss;
}

static void train(parameters* p) {
  static parameters gradient, mean, square; /* Adam's moments (Kingma & Ba 2015) */
  const float* d = (const float*)&gradient;
  float *w = (float*)p, *m = (float*)&mean, *v = (float*)&square;
  static float x[T + 1][B];
  int step, t, b, k;
  for (step = 1; step <= 600; ++step) {
    const double rate = 0.01 * sqrt(1 - pow(0.999, step)) / (1 - pow(0.9, step));
    float loss;
    for (b = 0; b < B; ++b) {
      const float phase = 6.2832f * uniform(), speed = 0.2f + 0.4f * uniform();
      for (t = 0; t <= T; ++t) x[t][b] = sinf(phase + speed * (float)t);
    }
    loss = loss_and_gradient(p, (const float (*)[B])x, &gradient);
    for (k = 0; k < COUNT; ++k) {
      m[k] += 0.1f * (d[k] - m[k]);
      v[k] += 0.001f * (d[k] * d[k] - v[k]);
      w[k] -= (float)(rate * m[k] / (sqrt(v[k]) + 1e-8));
    }
    if (step == 1 || step % 100 == 0) printf("step %3d  error %.5f\n", step, loss);
  }
}

/* Reads half a wave's worth of true samples, then only its own. */
static void continue_a_wave(const parameters* p) {
  float h[H], next = 0;
  int t, k;
  fusedrnn_weights* weights = pack(p, 0);
  const fusedrnn_weights* layers[1];
  fusedrnn_stream* stream;
  layers[0] = weights;
  must(rnn->stream_new(layers, 1, 1, &stream));
  rnn->weights_free(weights); /* the stream, too */
  for (t = 0; t < 30; ++t) {
    const float truth = sinf(0.3f * (float)t), x = t < 20 ? truth : next;
    if (t >= 20) printf("t %d  sine %+.3f  network %+.3f\n", t, truth, next);
    must(rnn->stream_step(stream, &x, h));
    for (next = 0, k = 0; k < H; ++k) next += p->w[k] * h[k];
  }
  rnn->stream_free(stream);
}

int main(void) {
  static parameters p;
  PyThreadState* thread;
  int k;
  Py_Initialize();
  rnn = fusedrnn_import();
  if (!rnn) {
    PyErr_Print();
    return 1;
  }
  thread = PyEval_SaveThread(); /* from here on without Python */
  for (k = 0; k < COUNT; ++k) ((float*)&p)[k] = (2 * uniform() - 1) / sqrtf(H);
  train(&p);
  continue_a_wave(&p);
  PyEval_RestoreThread(thread);
  return Py_FinalizeEx() < 0;
}
