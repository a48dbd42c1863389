#include "backward.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace fusedrnn {

// The work of this call, for policy.h.
template <class T>
Workload BackwardCall<T>::workload() const {
  const Weights<T>& weights = *tape_.weights;
  const CellKernels<T>& kernel = weights.kernel();
  const Index I = weights.I, R = weights.packed.R;
  const double N = static_cast<double>(tape_.schedule->row_count()),
               columns = static_cast<double>(kernel.gates * weights.padded());
  const bool projected = tape_.form == kProjected, normed = tape_.form == kNormed;
  Workload load;
  load.flops = 4.0 * N * columns * static_cast<double>(R + (arrays_.dx.data ? I : 1));
  if (!kernel.recurrent) load.flops += kCellFlops * N * columns;
  if (projected) load.flops += 4.0 * N * static_cast<double>(R * weights.H);
  load.weight_bytes = static_cast<double>(weights.recurrent_bytes());
  load.steps = f_.rows.T, load.rows = f_.rows.B;
  load.lanes = table_of<T>(*weights.kernels).lanes;
  load.panels = kernel.back_panels(weights.R);
  load.barriers = kernel.recurrent ? f_.rows.T * (kernel.phases + projected + normed)
                                   : 2 * (tape_.schedule->row_count() / kBackwardRows + 1);
  return load;
}

template <class T>
BackwardCall<T>::BackwardCall(Unallocated, const Tape<T>& tape, const BackwardArrays<T>& arrays)
    : tape_(tape), arrays_(arrays) {
  const Weights<T>& weights = *tape.weights;
  const CellKernels<T>& kernel = weights.kernel();
  const Index N = tape.schedule->row_count();
  Backward<T>& f = f_;
  f.weights = &weights.packed;
  f.rows = tape.schedule->rows();
  f.reverse = tape.reverse;
  f.x = tape.x;
  f.tokens = tape.tokens;
  f.gates = tape.gates;
  for (int s = 0; s < kernel.states; ++s) f.states[s] = tape.states[s];
  f.operand = tape.operand;
  f.recurrent = tape.recurrent, f.candidate = tape.candidate, f.hidden = tape.hidden;
  f.masks = tape.masks;
  f.norm.products_x = tape.products_x, f.norm.products_h = tape.products_h, f.norm.moments = tape.moments;
  f.few_rows = N > 0 && N <= kBackwardRows && kFewRows * N <= weights.I + weights.packed.R && tape.form != kProjected;
  f.dy = arrays.dy;
  f.dx = arrays.dx;
  f.accumulate = arrays.accumulate;
  f.dx_T = tape.schedule->padded_T();
  f.chunk_rows = std::max<Index>(std::min(N, kBackwardRows), f.rows.active(0));
  f.dW_ih = arrays.dW_ih, f.dW_hh = arrays.dW_hh, f.db_ih = arrays.db_ih, f.db_hh = arrays.db_hh;
  f.dW_hr = arrays.dW_hr;
  f.norm.dgain_ih = arrays.dgain_ih, f.norm.dgain_hh = arrays.dgain_hh;
  load_ = workload();
}

template <class T>
Measured BackwardCall<T>::measure(const Tape<T>& tape, bool need_dx) {
  BackwardArrays<T> arrays;
  static char somewhere;  // stands for a dx; nothing is written
  if (need_dx) arrays.dx.data = &somewhere;
  BackwardCall call(Unallocated(), tape, arrays);
  Arena arena;
  call.lay_out(arena);
  return {call.load_, tape.form, call.f_.chunk_rows, 0, arena.size()};
}

template <class T>
BackwardCall<T>::BackwardCall(const Tape<T>& tape, const BackwardArrays<T>& arrays)
    : BackwardCall(Unallocated(), tape, arrays) {
  const Weights<T>& weights = *tape.weights;
  const CellKernels<T>& kernel = weights.kernel();
  const Index N = tape.schedule->row_count();
  Backward<T>& f = f_;
  for (int s = 0; s < kernel.states && N > 0; ++s)
    if (tape.masks.rate[s] != T(0)) throw std::invalid_argument("backward: zoneout had no masks");
  Arena arena;
  lay_out(arena);
  memory_ = arena.allocate();
  for (int s = 0; s < kernel.states; ++s) {
    if (tape.schedule->cut()) gather_final_states(s);
    else
      copy_rows(f.dstates[s], weights.padded(s), arrays.dstate_n[s], arrays.dstate_n_stride[s], f.rows.B,
                weights.units(s), f.rows, true);
  }
  if (f.drecurrent) std::fill_n(f.drecurrent, f.rows.B * weights.padded(0), T(0));
  if (f.dunit_rows) std::fill_n(f.dunit_rows, f.rows.B * kernel.unit_parameters * weights.padded(), T(0));
  if (!arrays.dunits) f.dunits = nullptr;
  if (N == 0) std::memset(f.dW_x, 0, arena.size() - sums_at_);  // nothing will be summed, so the gradients are zero
}

template <class T>
void BackwardCall<T>::lay_out(Arena& arena) {
  Backward<T>& f = f_;
  const Weights<T>& weights = *tape_.weights;
  const CellKernels<T>& kernel = weights.kernel();
  const bool masked = tape_.form != kPlain, projected = tape_.form == kProjected, normed = tape_.form == kNormed;
  const std::size_t lanes = size(table_of<T>(*weights.kernels).lanes), wide = size(weights.padded()),
                    wide_h = size(weights.padded(0)), I = size(weights.I), R = size(weights.packed.R),
                    wide_x = (I + lanes - 1) / lanes * lanes, B = size(f.rows.B), rows = size(f.chunk_rows);
  const std::size_t columns = size(kernel.gates + kernel.split) * wide, gates = size(kernel.gates) * wide;
  arena.claim(f.dgates, product(columns, rows));
  for (int s = 0; s < kernel.states; ++s) arena.claim(f.dstates[s], product(B, size(weights.padded(s))));
  if (kernel.phases == 2) arena.claim(f.doperand, product(B, wide));
  if (masked) arena.claim(f.drecurrent, product(B, wide_h));
  if (projected) {
    arena.claim(f.dhidden, product(B, wide));
    arena.claim(f.dprojected, product(rows, wide_h));
  }
  if (normed) {
    arena.claim(f.norm.dproducts_x, product(columns, rows));
    arena.claim(f.norm.dproducts_h, product(columns, rows));
    arena.claim(f.norm.dseen, product(wide, rows));
    arena.claim(f.norm.shares, product(2 * (3 + 2 * size(kernel.split)) * (wide / lanes), B));
  }
  const std::size_t second = kernel.phases == 2 || projected ? wide : 0;
  arena.claim(f.inputs, product(wide_x + (kernel.recurrent ? wide_h : 0) + second, rows));
  if (!kernel.recurrent) arena.claim(f.dunit_rows, product(product(B, size(kernel.unit_parameters)), wide));
  // From here on: sums over all steps.
  sums_at_ = arena.size();
  arena.claim(f.dW_x, product(gates, f.few_rows && !tape_.tokens ? 0 : I));
  arena.claim(f.dW_h, product(gates, f.few_rows ? 0 : R));
  if (projected) arena.claim(f.dW_r, product(wide_h, size(weights.H)));
  arena.claim(f.db, columns);
  arena.claim(f.dunits, product(size(kernel.unit_parameters), wide));
  if (normed) {
    arena.claim(f.norm.dgain_x, gates);
    arena.claim(f.norm.dgain_h, gates);
    arena.claim(f.norm.dgain_c, wide);
    arena.claim(f.norm.dbias_c, wide);
  }
}

template <class T>
void BackwardCall<T>::run(Member& m) const {
  tape_.weights->kernel().backward[tape_.form](f_, m);
}

// Only the last run of a row returns its final state, so only that run receives the state's gradient.
template <class T>
void BackwardCall<T>::gather_final_states(int s) const {
  const Schedule& schedule = *tape_.schedule;
  const Index wide = tape_.weights->padded(s);
  std::fill_n(f_.dstates[s], f_.rows.B * wide, T(0));
  for (Index row = 0; arrays_.dstate_n[s] && row < schedule.B(); ++row)
    std::copy_n(arrays_.dstate_n[s] + row * arrays_.dstate_n_stride[s], tape_.weights->units(s),
                f_.dstates[s] + schedule.last_run(row, tape_.reverse) * wide);
}

// The gradient of the state before the first step comes from the run that started from that state; the gradient of the
// own initial state is the sum over the other runs, in the order of time. Without a given state, the first run in
// running order also started from the own initial state.
template <class T>
void BackwardCall<T>::scatter_initial_states(int s) const {
  const Weights<T>& weights = *tape_.weights;
  const Schedule& schedule = *tape_.schedule;
  const Index wide = weights.padded(s), units = weights.units(s);
  const auto add = table_of<T>(*weights.kernels).add;  // rounds to nearest, whatever the caller's rounding mode
  for (Index row = 0; row < schedule.B(); ++row) {
    std::fill_n(arrays_.dstate[s] + row * arrays_.dstate_stride[s], units, T(0));
    if (arrays_.dinitial[s]) std::fill_n(arrays_.dinitial[s] + row * arrays_.dinitial_stride[s], units, T(0));
  }
  const auto take = [&](Index b, Index row, bool& started) {
    const T* d = f_.dstates[s] + b * wide;
    const bool goes_on = schedule.goes_on(b, tape_.reverse);
    if (goes_on) std::copy_n(d, units, arrays_.dstate[s] + row * arrays_.dstate_stride[s]);
    if (!arrays_.dinitial[s] || (goes_on && tape_.given[s])) return;
    T* sum = arrays_.dinitial[s] + row * arrays_.dinitial_stride[s];
    if (!started) std::copy_n(d, units, sum);
    else add(d, sum, units);
    started = true;
  };
  for (Index b = 0; !schedule.cut() && b < f_.rows.B; ++b) {
    bool started = false;
    take(b, f_.rows.caller_row(b), started);
  }
  for (Index row = 0; schedule.cut() && row < schedule.B(); ++row) {
    bool started = false;
    const Range runs = schedule.runs_of(row);
    for (Index i = runs.begin; i < runs.end; ++i) take(schedule.run(i), row, started);
  }
}

template <class T>
void BackwardCall<T>::finish() const {
  const Weights<T>& weights = *tape_.weights;
  for (int s = 0; s < weights.kernel().states; ++s) {
    if (tape_.schedule->resets() || arrays_.dinitial[s]) scatter_initial_states(s);
    else
      copy_rows(arrays_.dstate[s], arrays_.dstate_stride[s], f_.dstates[s], weights.padded(s), f_.rows.B,
                weights.units(s), f_.rows, false);
  }
  if (arrays_.dgain_c) {
    std::copy_n(f_.norm.dgain_c, weights.H, arrays_.dgain_c);
    std::copy_n(f_.norm.dbias_c, weights.H, arrays_.dbias_c);
  }
  const Index sharing = weights.kernel().sharing;
  for (Index row = 0; row < arrays_.unit_rows; ++row) {
    const T* from = f_.dunits + (weights.kernel().unit_parameters - arrays_.unit_rows + row) * weights.padded();
    for (Index unit = 0; unit < weights.H; unit += sharing)
      arrays_.dunits[(row * weights.H + unit) / sharing] = from[unit];
  }
}

template <class T>
void BackwardCall<T>::detach_dx() {
  const Schedule& schedule = *tape_.schedule;
  const Index item = sizeof(T), I = tape_.weights->I, columns = schedule.columns();
  dx_ = Buffer(product(product(size(schedule.T()), size(columns)), size(I * item)));
  f_.dx = {dx_.as<char>(), columns * I * item, schedule.packed() ? 0 : I * item, item};
  f_.dx_T = f_.rows.gaps = 0;  // skipped steps are not added, so their zeros are not needed
  f_.accumulate = false;
}

template <class T>
void BackwardCall<T>::add_dx() const {
  const auto add = table_of<T>(*tape_.weights->kernels).add;
  for (Index b = 0; b < f_.rows.B; ++b)
    for (Index step = 0, row = f_.rows.caller_row(b); step < f_.rows.length_of(b); ++step) {
      const Index t = f_.rows.caller_time(step, b, false);
      add(reinterpret_cast<const T*>(f_.dx.data + t * f_.dx.time + row * f_.dx.batch),
          reinterpret_cast<T*>(arrays_.dx.data + t * arrays_.dx.time + row * arrays_.dx.batch), tape_.weights->I);
    }
}

template <class T>
void run_backward(std::vector<BackwardCall<T>>& calls, Interrupt interrupt) {
  std::vector<Workload> loads;
  double seconds = 0;
  for (const BackwardCall<T>& call : calls) {
    loads.push_back(call.load());
    seconds += seconds_alone(loads.back(), Machine());
  }
  ThreadLimit threads;
  const Machine machine = machine_for(seconds, threads);
  if (machine.threads == 1) {
    for (const BackwardCall<T>& call : calls) run_alone([&](Member& m) { call.run(m); }, interrupt);
  } else {
    const std::vector<Stage> plan = decide(loads, Order::kIndependent, machine);
    // What concurrent calls add to the same dx is added afterwards, in the order of the calls.
    std::vector<const BackwardCall<T>*> detached;
    if (plan.size() < calls.size())
      for (BackwardCall<T>& call : calls)
        if (call.accumulates()) call.detach_dx(), detached.push_back(&call);
    Calls ready;
    for (const BackwardCall<T>& call : calls) ready.works.push_back([&](Member& m) { call.run(m); });
    run(plan, ready, interrupt);
    for (const BackwardCall<T>* call : detached) call->add_dx();
  }
  for (const BackwardCall<T>& call : calls) call.finish();
}

template void run_backward(std::vector<BackwardCall<float>>&, Interrupt);
template void run_backward(std::vector<BackwardCall<double>>&, Interrupt);
template class BackwardCall<float>;
template class BackwardCall<double>;

}  // namespace fusedrnn
