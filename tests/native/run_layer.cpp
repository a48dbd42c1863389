// Runs one layer forward and backward without Python: a problem from standard input, results to standard output, both
// raw arrays in the order below. test_aarch64.py cross-compiles it and runs it under emulation.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../../csrc/core/backward.h"
#include "../../csrc/core/dispatch.h"
#include "../../csrc/core/forward.h"

using namespace fusedrnn;

template <class T>
static std::vector<T> read(Index n) {
  std::vector<T> v(static_cast<std::size_t>(n));
  if (std::fread(v.data(), sizeof(T), v.size(), stdin) != v.size()) std::exit(2);
  return v;
}

template <class T>
static void write(const std::vector<T>& v) {
  std::fwrite(v.data(), sizeof(T), v.size(), stdout);
}

template <class T>
static Strided dense(std::vector<T>& v, Index B, Index features) {
  const Index item = sizeof(T);
  return {reinterpret_cast<char*>(v.data()), B * features * item, features * item, item};
}

static CellOptions options_of(const std::vector<double>& o) {
  const auto activation = [&](std::size_t i) {
    return Activation{static_cast<ActivationId>(o[i]), o[i + 1], o[i + 2]};
  };
  CellOptions options;
  options.gate = activation(0), options.state = activation(3), options.output = activation(6);
  options.clip = o[9], options.cell_clip = o[10], options.peephole = static_cast<Peephole>(o[11]);
  options.candidate = static_cast<Candidate>(o[12]), options.highway_bias = o[13];
  return options;
}

enum Given { kRecurrentMask = 1, kZoneoutH = 2, kZoneoutC = 4 };  // masks

template <class T>
static void run(CellId cell, Index steps, Index B, Index I, Index H, bool reverse, bool with_lengths, Index unit_rows,
                Index proj_size, Index masks) {
  const CellOptions options = options_of(read<double>(14));
  const CellKernels<T>& kernel = table_of<T>(current_kernels()).cell(cell);
  const Index G = kernel.gates, S = kernel.states, R = proj_size ? proj_size : H, units_of[] = {R, H};
  const auto lengths = read<std::int64_t>(with_lengths ? B : 0);
  const Index rows_h = kernel.recurrent ? G * H : 0;
  auto W_ih = read<T>(G * H * I), W_hh = read<T>(rows_h * R), b_ih = read<T>(G * H), b_hh = read<T>(rows_h);
  auto units = read<T>(unit_rows * H / kernel.sharing), W_hr = read<T>(proj_size * H);
  const Index state_size = B * (S == 2 ? R + H : R);
  auto x = read<T>(steps * B * I), state = read<T>(state_size), dy = read<T>(steps * B * R),
       dstate_n = read<T>(state_size);
  auto recurrent_mask = read<T>(masks & kRecurrentMask ? B * R : 0);
  std::vector<char> kept[] = {read<char>(masks & kZoneoutH ? steps * B * R : 0),
                              read<char>(masks & kZoneoutC ? steps * B * H : 0)};

  RawWeights<T> raw{W_ih.data(), W_hh.data(), b_ih.data(), b_hh.empty() ? nullptr : b_hh.data(), units.data(),
                    unit_rows};
  Structure structure;
  structure.R = proj_size, raw.W_hr = proj_size ? W_hr.data() : nullptr;
  const auto weights = std::make_shared<const Weights<T>>(current_kernels(), cell, options, I, H, raw, true, structure);
  const auto schedule = std::make_shared<const Schedule>(steps, B, with_lengths ? lengths.data() : nullptr);
  std::vector<T> y(static_cast<std::size_t>(steps * B * R)), state_n(state.size()), dx(x.size()), dstate(state.size());
  std::vector<T> dW_ih(W_ih.size()), dW_hh(W_hh.size()), db_ih(b_ih.size()), db_hh(b_hh.size()), dunits(units.size()),
      dW_hr(W_hr.size());

  ForwardArrays<T> forward;
  forward.x = dense(x, B, I), forward.y = dense(y, B, R);
  if (masks & kRecurrentMask) forward.recurrent_mask = recurrent_mask.data(), forward.recurrent_mask_stride = R;
  BackwardArrays<T> backward;
  backward.dy = dense(dy, B, R), backward.dx = dense(dx, B, I);
  backward.dW_ih = dW_ih.data(), backward.dW_hh = dW_hh.data(), backward.db_ih = db_ih.data(),
  backward.db_hh = db_hh.empty() ? nullptr : db_hh.data();
  if (proj_size) backward.dW_hr = dW_hr.data();
  if (unit_rows) backward.dunits = dunits.data(), backward.unit_rows = unit_rows;
  for (Index s = 0, at = 0; s < S; at += B * units_of[s++]) {
    const Index n = units_of[s];
    forward.state[s] = state.data() + at, forward.state_n[s] = state_n.data() + at;
    backward.dstate_n[s] = dstate_n.data() + at, backward.dstate[s] = dstate.data() + at;
    forward.state_stride[s] = forward.state_n_stride[s] = backward.dstate_n_stride[s] = backward.dstate_stride[s] = n;
    if (!kept[s].empty()) forward.kept[s] = {kept[s].data(), B * n, n, 1};
  }
  ThreadLimit threads;
  std::vector<ForwardCall<T>> forward_calls;
  forward_calls.emplace_back(weights, schedule, forward, reverse, true, threads);
  run_forward(forward_calls, Order::kIndependent, threads, {});
  const auto tape = forward_calls.front().take_tape();
  std::vector<BackwardCall<T>> backward_calls;
  backward_calls.emplace_back(static_cast<const Tape<T>&>(*tape), backward);
  run_backward(backward_calls, {});
  for (const auto* result : {&y, &state_n, &dx, &dstate, &dW_ih, &dW_hh, &db_ih, &db_hh, &dunits, &dW_hr})
    write(*result);
}

int main() {
  // cell, double?, T, B, I, H, reverse?, lengths?, rows of unit parameters, proj_size, which masks
  const auto h = read<std::int64_t>(11);
  const auto cell = static_cast<CellId>(h[0]);
  set_num_threads(2);
  if (h[1]) run<double>(cell, h[2], h[3], h[4], h[5], h[6], h[7], h[8], h[9], h[10]);
  else run<float>(cell, h[2], h[3], h[4], h[5], h[6], h[7], h[8], h[9], h[10]);
}
