#include "forward.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <stdexcept>

namespace fusedrnn {

// The work of this call, for policy.h.
template <class T>
Workload ForwardCall<T>::workload() const {
  const Weights<T>& weights = *weights_;
  const CellKernels<T>& kernel = weights.kernel();
  const double N = static_cast<double>(schedule_->row_count()),
               columns = static_cast<double>(kernel.gates * weights.padded());
  const bool projected = form_ == kProjected;
  Workload load;
  load.flops = 2.0 * N * columns * static_cast<double>(weights.packed.R + (arrays_.tokens ? 1 : weights.I));
  if (!kernel.recurrent) load.flops += kCellFlops * N * columns;
  if (projected) load.flops += 2.0 * N * static_cast<double>(weights.R * weights.H);
  load.weight_bytes = static_cast<double>(weights.recurrent_bytes());
  load.steps = f_.rows.T, load.rows = f_.rows.B;
  load.lanes = table_of<T>(*weights.kernels).lanes;
  load.barriers = kernel.recurrent ? f_.rows.T * (kernel.phases + projected + (form_ == kNormed)) : 0;
  load.panels = kernel.panels(weights.H);
  load.divisible = !f_.history && !schedule_->cut();
  return load;
}

template <class T>
ForwardCall<T>::ForwardCall(std::shared_ptr<const Weights<T>> weights, std::shared_ptr<const Schedule> schedule,
                            const ForwardArrays<T>& arrays, bool reverse, bool training)
    : weights_(std::move(weights)), schedule_(std::move(schedule)), arrays_(arrays) {
  Forward<T>& f = f_;
  f.weights = &weights_->packed;
  f.rows = schedule_->rows();
  f.reverse = reverse;
  f.keep = training && weights_->kernel().saved > 0;
  f.history = training;
  f.x = arrays.x;
  f.x_direct = arrays.x_direct;
  f.y = arrays.y;
  f.y_T = schedule_->padded_T();
  f.input_rows = kInputRows;
  for (Index t = 0; t < f.rows.T;) {
    const Index end = chunk_end(f.rows, t, f.input_rows);
    f.chunk_rows = std::max(f.chunk_rows, f.rows.offset(end) - f.rows.offset(t));
    t = end;
    if (!f.rows.offset_at) break;  // all chunks are of equal size
  }
  const CellKernels<T>& kernel = weights_->kernel();
  f.gate_rows = f.keep ? schedule_->row_count() : f.chunk_rows;
  if (!kernel.recurrent && !f.keep) f.own_gates = kernel.panel_width * std::max<Index>(2, f.chunk_rows);
  form_ = weights_->form(arrays.masked());
  if (!weights_->has_form(form_)) throw std::invalid_argument("forward: this cell has no such form");
  load_ = workload();
}

template <class T>
Measured ForwardCall<T>::measure(std::shared_ptr<const Weights<T>> weights, std::shared_ptr<const Schedule> schedule,
                                 const ForwardArrays<T>& arrays, bool training) {
  ForwardCall call(std::move(weights), std::move(schedule), arrays, false, training);
  Arena lasting, scratch;
  call.lay_out(lasting, scratch);
  return {call.load_, call.form_, call.f_.chunk_rows, lasting.size(), scratch.size()};
}

template <class T>
ForwardCall<T>::ForwardCall(std::shared_ptr<const Weights<T>> weights, std::shared_ptr<const Schedule> schedule,
                            const ForwardArrays<T>& arrays, bool reverse, bool training, ThreadLimit& threads)
    : ForwardCall(std::move(weights), std::move(schedule), arrays, reverse, training) {
  gathering_threads_ = arrays.tokens || arrays.x_direct ? 0 : threads.most();
  if (f_.own_gates > 0) threads_with_gates_ = threads.most();
  Arena lasting, scratch;
  lay_out(lasting, scratch);
  if (training) tape_ = std::make_unique<Tape<T>>();
  Buffer& memory = training ? tape_->memory : memory_;
  memory = lasting.allocate();
  if (scratch.size() > 0) scratch_ = scratch.allocate();
  fill();
  if (training) fill_tape(lasting.size());
}

// Claims space for all arrays of the call: in training the lasting arrays belong to the tape; the scratch arrays live
// for the call.
template <class T>
void ForwardCall<T>::lay_out(Arena& lasting, Arena& scratch) {
  Forward<T>& f = f_;
  const Weights<T>& weights = *weights_;
  const CellKernels<T>& kernel = weights.kernel();
  const bool training = f.history, masked = form_ != kPlain, projected = form_ == kProjected, normed = form_ == kNormed;
  const std::size_t N = size(schedule_->row_count()), B = size(f.rows.B), wide = size(weights.padded()),
                    wide_h = size(weights.padded(0)), columns = size(kernel.gates + kernel.split) * wide;
  const std::size_t state_rows = training ? sum(B, N) : 2 * B, operand_rows = training ? N : B;
  if (f.own_gates > 0) scratch.claim(f.gates, product(size(threads_with_gates_), size(f.own_gates)));
  else (f.keep ? lasting : scratch).claim(f.gates, product(columns, size(f.gate_rows)));
  for (int s = 0; s < kernel.states; ++s) lasting.claim(f.states[s], product(state_rows, size(weights.padded(s))));
  if (kernel.phases == 2) lasting.claim(f.operand, product(operand_rows, wide));
  if (projected) lasting.claim(f.hidden, product(operand_rows, wide));
  // Masks: the caller's, in the order of rows, or a single neutral row for all rows.
  if (masked) lasting.claim(factors_, product(arrays_.recurrent_mask ? B : 1, wide_h));
  if (arrays_.recurrent_mask) lasting.claim(f.recurrent, product(state_rows, wide_h));
  if (arrays_.kept[1].data || (normed && weights.structure.zoneout[1] != 0))
    lasting.claim(f.candidate, product(state_rows, wide));
  for (int s = 0; masked && s < kernel.states; ++s)
    lasting.claim(stays_[s], product(arrays_.kept[s].data ? N : 1, size(weights.padded(s))));
  if (normed) {
    const std::size_t blocks = wide / size(table_of<T>(*weights.kernels).lanes), groups = size(1 + kernel.split);
    lasting.claim(f.norm.products_h, product(size(kernel.gates) * wide, operand_rows));
    if (training) {
      lasting.claim(f.norm.saved, product(columns, N));
      lasting.claim(f.norm.moments, product(4 * groups + 2, N));
    }
    scratch.claim(f.norm.shares_x, product(2 * blocks * groups, size(f.chunk_rows)));
    scratch.claim(f.norm.shares_h, product(2 * blocks * groups, B));
    scratch.claim(f.norm.shares_c, product(2 * blocks, B));
  }
  if (arrays_.tokens) lasting.claim(tokens_, N);
  else if (training) lasting.claim(x_, product(N, size(weights.I)));
  if (gathering_threads_ > 0) scratch.claim(f.gather, product(size(gathering_threads_ * kGatherRows), size(weights.I)));
}

// Sets the states from which the rows start.
template <class T>
void ForwardCall<T>::fill_states(int s) {
  const Weights<T>& weights = *weights_;
  const T *given = arrays_.state[s], *own = arrays_.initial[s];
  const Index wide = weights.padded(s), units = weights.units(s), stride = arrays_.state_stride[s];
  if (given ? !schedule_->resets() : !own) {
    copy_rows(f_.states[s], wide, given, stride, f_.rows.B, units, f_.rows, true);
    return;
  }
  for (Index b = 0; b < f_.rows.B; ++b) {
    const T* from = given && schedule_->goes_on(b, f_.reverse) ? given + f_.rows.caller_row(b) * stride : own;
    T* to = f_.states[s] + b * wide;
    if (from) to = std::copy_n(from, units, to);
    std::fill(to, f_.states[s] + (b + 1) * wide, T(0));
  }
}

// Sets what the arrays contain before the first step.
template <class T>
void ForwardCall<T>::fill() {
  Forward<T>& f = f_;
  const Weights<T>& weights = *weights_;
  const int states = weights.kernel().states;
  const Index B = f.rows.B, wide_h = weights.padded(0);
  for (int s = 0; s < states; ++s) {
    f.states_n[s] = schedule_->cut() ? nullptr : arrays_.state_n[s];
    f.states_n_stride[s] = arrays_.state_n_stride[s];
    fill_states(s);
  }
  if (!arrays_.recurrent_mask) f.recurrent = f.states[0];
  if (!f.candidate) f.candidate = f.states[1];
  if (form_ == kNormed && !f.history) f.norm.saved = f.gates;
  if (arrays_.tokens) {
    take_tokens(arrays_.tokens, tokens_, *schedule_, weights.I, f.reverse);
    f.tokens = tokens_;
  }
  if (form_ == kPlain) return;
  f.masks.recurrent = factors_;
  if (arrays_.recurrent_mask) {
    f.masks.recurrent_row = wide_h;
    copy_rows(factors_, wide_h, arrays_.recurrent_mask, arrays_.recurrent_mask_stride, B, weights.R, f.rows, true);
    for (Index i = 0; i < B * wide_h; ++i) f.recurrent[i] = f.states[0][i] * factors_[i];
  } else {
    std::fill_n(factors_, wide_h, T(1));
  }
  for (int s = 0; s < states; ++s) {
    const bool drawn = arrays_.kept[s].data;
    f.masks.kept[s] = stays_[s];
    f.masks.kept_row[s] = drawn ? weights.padded(s) : 0;
    if (!drawn) std::memset(stays_[s], 0, size(weights.padded(s)));
    f.masks.rate[s] = drawn ? T(0) : T(weights.structure.zoneout[s]);
  }
}

template <class T>
void ForwardCall<T>::fill_tape(std::size_t nbytes) {
  Tape<T>& tape = *tape_;
  const Forward<T>& f = f_;
  tape.weights = weights_;
  tape.schedule = schedule_;
  tape.reverse = f.reverse;
  tape.form = form_;
  tape.nbytes = nbytes;
  tape.gates = form_ == kNormed ? f.norm.saved : f.gates;
  tape.products_x = f.gates, tape.products_h = f.norm.products_h, tape.moments = f.norm.moments;
  for (int s = 0; s < weights_->kernel().states; ++s) tape.states[s] = f.states[s], tape.given[s] = arrays_.state[s];
  tape.operand = f.operand;
  tape.recurrent = f.recurrent, tape.candidate = f.candidate, tape.hidden = f.hidden;
  tape.masks = f.masks;
  tape.tokens = f.tokens, tape.x = x_;
}

// The caller may change x before backward, so the tape keeps a copy, in the order of rows.
template <class T>
void ForwardCall<T>::copy_input(Member& m, Interrupt interrupt) const {
  const Rows& rows = f_.rows;
  const Index I = weights_->I;
  const Range steps = part_of(rows.T, m.rank, m.team->size);
  for (Index t = steps.begin; t < steps.end && !__atomic_load_n(m.team->stop, __ATOMIC_RELAXED); ++t) {
    if (m.rank == 0 && m.team->interrupted && interrupt.check(interrupt.argument))
      __atomic_store_n(m.team->stop, 1, __ATOMIC_RELAXED);
    for (Index b = 0; b < rows.active(t); ++b) {
      const Index time = rows.caller_time(t, b, f_.reverse), row = rows.caller_row(b), to = rows.offset(t) + b;
      const char* from = arrays_.x.data + time * arrays_.x.time + row * arrays_.x.batch;
      if (arrays_.x_direct) std::memcpy(x_ + to * I, from, size(I) * sizeof(T));
      else
        for (Index k = 0; k < I; ++k) std::memcpy(x_ + to * I + k, from + k * arrays_.x.feature, sizeof(T));
    }
  }
}

// Copies the zoneout masks, in the order of rows and padded to whole vectors.
template <class T>
void ForwardCall<T>::copy_kept(Member& m) const {
  for (int s = 0; s < weights_->kernel().states; ++s) {
    const Strided& from = arrays_.kept[s];
    if (!from.data) continue;
    const Index units = weights_->units(s), wide = weights_->padded(s);
    const Range steps = part_of(f_.rows.T, m.rank, m.team->size);
    for (Index t = steps.begin; t < steps.end; ++t)
      for (Index b = 0; b < f_.rows.active(t); ++b) {
        std::uint8_t* to = stays_[s] + (f_.rows.offset(t) + b) * wide;
        const char* row =
            from.data + f_.rows.caller_time(t, b, f_.reverse) * from.time + f_.rows.caller_row(b) * from.batch;
        for (Index k = 0; k < units; ++k) to[k] = row[k] != 0;  // each byte is read once and becomes a share of 0 or 1
        std::memset(to + units, 0, size(wide - units));
      }
  }
}

template <class T>
std::vector<ForwardCall<T>> ForwardCall<T>::by_rows(Index parts) const {
  std::vector<ForwardCall> calls;
  ThreadLimit alone(1);
  for (Index part = 0; part < parts; ++part)
    calls.emplace_back(weights_, std::make_shared<Schedule>(*schedule_, part, parts), arrays_, f_.reverse, false,
                       alone);
  return calls;
}

template <class T>
void ForwardCall<T>::run(Member& m, Interrupt interrupt) const {
  assert(gathering_threads_ == 0 || m.team->size <= gathering_threads_);
  assert(f_.own_gates == 0 || m.team->size <= threads_with_gates_);
  if (x_) copy_input(m, interrupt);
  copy_kept(m);
  weights_->kernel().forward[form_](f_, m);
}

template <class T>
void ForwardCall<T>::finish() const {
  for (int s = 0; schedule_->cut() && s < weights_->kernel().states; ++s)
    for (Index row = 0, wide = weights_->padded(s); row < schedule_->B(); ++row) {
      const Index b = schedule_->last_run(row, f_.reverse), steps = f_.rows.length_of(b);
      const Index at = !f_.history ? ((steps + f_.slot) & 1) * f_.rows.B
                       : steps     ? f_.rows.B + f_.rows.offset(steps - 1)
                                   : 0;
      std::copy_n(f_.states[s] + (at + b) * wide, weights_->units(s),
                  arrays_.state_n[s] + row * arrays_.state_n_stride[s]);
    }
}

template <class T>
void run_forward(std::vector<ForwardCall<T>>& calls, Order order, ThreadLimit& threads, Interrupt interrupt) {
  std::vector<Workload> loads;
  double seconds = 0;
  for (const ForwardCall<T>& call : calls) {
    loads.push_back(call.load());
    seconds += seconds_alone(loads.back(), Machine());
  }
  const Machine machine = machine_for(seconds, threads);
  if (machine.threads == 1) {
    for (const ForwardCall<T>& call : calls) run_alone([&](Member& m) { call.run(m, interrupt); }, interrupt);
  } else {
    std::vector<ForwardCall<T>> shares;
    Calls ready;
    for (const ForwardCall<T>& call : calls) ready.works.push_back([&](Member& m) { call.run(m, interrupt); });
    ready.by_rows = [&](std::size_t i, Index parts) {
      shares = calls[i].by_rows(parts);
      std::vector<Work> works;
      for (const ForwardCall<T>& share : shares) works.push_back([&](Member& m) { share.run(m, interrupt); });
      return works;
    };
    ready.keep_close = [&](std::size_t i, Index steps) { calls[i].keep_close(steps); };
    run(decide(loads, order, machine), ready, interrupt);
  }
  for (const ForwardCall<T>& call : calls) call.finish();
}

template void run_forward(std::vector<ForwardCall<float>>&, Order, ThreadLimit&, Interrupt);
template void run_forward(std::vector<ForwardCall<double>>&, Order, ThreadLimit&, Interrupt);

template <class T>
void read_states(const Tape<T>& tape, int state, T* before, T* after, bool* ran) {
  const Rows& rows = tape.schedule->rows();
  const Index units = tape.weights->units(state), wide = tape.weights->padded(state);
  for (Index t = 0; t < rows.T; ++t)
    for (Index b = 0; b < rows.active(t); ++b) {
      const Index at = tape.schedule->place(rows.caller_time(t, b, tape.reverse), rows.caller_row(b));
      const Index from = t ? rows.B + rows.offset(t - 1) : 0;  // the first B rows are the initial state
      std::copy_n(tape.states[state] + (from + b) * wide, units, before + at * units);
      std::copy_n(tape.states[state] + (rows.B + rows.offset(t) + b) * wide, units, after + at * units);
      ran[at] = true;
    }
}

template void read_states<float>(const Tape<float>&, int, float*, float*, bool*);
template void read_states<double>(const Tape<double>&, int, double*, double*, bool*);
template class ForwardCall<float>;
template class ForwardCall<double>;

}  // namespace fusedrnn
