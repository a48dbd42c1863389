#include "stepper.h"

#include <algorithm>
#include <cstring>

#include "policy.h"
#include "run.h"
#include "schedule.h"

namespace fusedrnn {

// Nanoseconds after a step during which the threads of that step are still awake: OpenMP's threads spin for
// milliseconds after a region, and a stream with such frequent steps is worth their spinning
// (docs/decisions/0003-threads.md).
static constexpr long long kMoment = 50'000;

template <class T>
StepRunner<T>::StepRunner(std::vector<std::shared_ptr<const Weights<T>>> layers, Index B, bool alone, Index window)
    : StepRunnerBase(kDtypeOf<T>), B_(B), window_(window), tokens_(size(B)) {
  for (auto& weights : layers) {
    const CellKernels<T>& kernel = weights->kernel();
    const std::size_t wide = size(weights->padded()), rows = size(B);
    const bool normed = weights->structure.normed;
    Layer layer{weights, {}, {}, nullptr};
    Forward<T>& f = layer.forward;
    T* ones = nullptr;
    std::uint8_t* nowhere = nullptr;  // all zeros: no mask makes a unit keep its state
    Arena arena;
    arena.claim(f.gates, product(size(kernel.gates + kernel.split) * wide, rows));
    for (int s = 0; s < kernel.states; ++s) arena.claim(f.states[s], product(2 * rows, size(weights->padded(s))));
    arena.claim(f.operand, product(rows, wide));
    arena.claim(ones, size(weights->padded(0)));
    arena.claim(nowhere, wide);
    if (window > 1) arena.claim(layer.wide, product(rows, size(weights->I)));
    if (normed) {
      const std::size_t blocks = wide / size(table_of<T>(*weights->kernels).lanes), groups = size(1 + kernel.split);
      arena.claim(f.candidate, product(2 * rows, wide));
      arena.claim(f.norm.products_h, product(size(kernel.gates) * wide, rows));
      arena.claim(f.norm.shares_x, product(2 * blocks * groups, rows));
      arena.claim(f.norm.shares_h, product(2 * blocks * groups, rows));
      arena.claim(f.norm.shares_c, product(2 * blocks, rows));
    }
    layer.memory = arena.allocate();
    std::memset(layer.memory.template as<char>(), 0, arena.size());
    std::fill_n(ones, weights->padded(0), T(1));
    f.weights = &weights->packed;
    f.rows.T = B > 0 ? 1 : 0, f.rows.B = B;
    f.x_direct = true;
    f.gate_rows = f.chunk_rows = f.input_rows = B;
    f.hidden = f.operand;  // a projected layer has no second phase, so its hidden units use this array
    f.recurrent = f.states[0];
    if (normed) f.norm.saved = f.gates;
    else f.candidate = f.states[1];
    f.masks.recurrent = ones;
    for (int s = 0; s < kernel.states; ++s) {
      f.masks.kept[s] = nowhere;
      f.masks.rate[s] = T(weights->structure.zoneout[s]);
    }
    f.y_T = f.rows.T;
    const Index products =
        kernel.gates * weights->H * (weights->packed.R + weights->I) + weights->H * weights->structure.R;
    flops_ += 2.0 * static_cast<double>(B * products);
    weight_bytes_ += static_cast<double>(weights->step_bytes());
    layers_.push_back(std::move(layer));
  }
  shareable_ = !alone && window == 1 && step_is_shareable(weight_bytes_, this_machine());
}

// While one core's cache holds the weights, a second thread costs more than it saves. With larger weights each thread
// keeps its share of them in its own cache, and a share has to be worth waking a thread. When steps follow each other
// immediately, the threads of the previous step are still awake, so smaller shares are enough.
template <class T>
Index StepRunner<T>::threads() const {
  if (!shareable_) return 1;
  Machine machine = this_machine();
  machine.threads = ThreadLimit().most();
  Workload load;
  load.flops = flops_, load.weight_bytes = weight_bytes_, load.steps = 1, load.rows = B_;
  load.lanes = table_of<T>(*layers_.front().weights->kernels).lanes;
  return threads_for_step(load, machine, now_ns() - last_step_ < kMoment);
}

// Moves the inputs of a layer by one step, and puts x, rows `stride` apart, or one-hot rows behind them.
template <class T>
void StepRunner<T>::shift_in(Layer& layer, const T* x, Index stride, const std::int64_t* tokens) const {
  const Index all = layer.weights->I, I = all / window_;
  for (Index b = 0; b < B_; ++b) {
    T* const row = layer.wide + b * all;
    std::memmove(row, row + I, size(all - I) * sizeof(T));
    if (!tokens) std::copy_n(x + b * stride, I, row + all - I);
    else std::fill_n(row + all - I, I, T(0)), row[all - I + tokens[b]] = T(1);
  }
}

template <class T>
void StepRunner<T>::step(const T* x, const std::int64_t* tokens, T* y) {
  Index stride = inputs(0);
  if (tokens) take_tokens(tokens, tokens_.data(), B_, stride);
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    Layer& layer = layers_[l];
    Forward<T>& f = layer.forward;
    const Index item = sizeof(T);
    f.tokens = l == 0 && tokens ? tokens_.data() : nullptr;
    if (layer.wide) {
      if (l == 0) shift_in(layer, x, stride, f.tokens);
      f.tokens = nullptr;
      x = layer.wide, stride = layer.weights->I;
    }
    f.x = {reinterpret_cast<char*>(const_cast<T*>(x)), 0, stride * item, item};
    if (l + 1 == layers_.size()) f.y = {reinterpret_cast<char*>(y), 0, layer.weights->R * item, item};
    stride = layer.weights->padded(0);
    x = f.states[0] + (f.slot ^ 1) * B_ * stride;  // what this layer is about to write
  }
  const auto run = [this](Member& m) {
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      Layer& layer = layers_[l];
      if (l > 0 && layer.wide) {  // such a runner is on one thread
        const Forward<T>& below = layers_[l - 1].forward;
        const Index wide = padded(l - 1, 0);
        shift_in(layer, below.states[0] + (below.slot ^ 1) * B_ * wide, wide, nullptr);
      }
      layer.weights->kernel().forward[layer.weights->form(false)](layer.forward, m);
    }
  };
  if (const Index size = threads(); size > 1) {
    run_teams({{{size, 1}, run}}, nullptr, nullptr);
  } else {
    run_alone(run, {});
  }
  for (Layer& layer : layers_) layer.forward.slot ^= 1;
  if (shareable_) last_step_ = now_ns();
}

template <class T>
T* StepRunner<T>::state(std::size_t layer, int which) const {
  const Forward<T>& f = layers_[layer].forward;
  return f.states[which] + f.slot * B_ * padded(layer, which);
}

template <class T>
void StepRunner<T>::read_state(int which, T* to) const {
  for (std::size_t l = 0; l < layers_.size(); ++l)
    for (Index b = 0, n = weights(l).units(which); b < B_; ++b, to += n)
      std::copy_n(state(l, which) + b * padded(l, which), n, to);
}

template <class T>
void StepRunner<T>::write_state(int which, const T* from) {
  for (std::size_t l = 0; l < layers_.size(); ++l)
    for (Index b = 0, n = weights(l).units(which), wide = padded(l, which); b < B_; ++b, from += n) {
      T* to = std::copy_n(from, n, state(l, which) + b * wide);
      std::fill_n(to, wide - n, T(0));  // a NaN from an earlier step must not stay in a padded lane
    }
}

template <class T>
void StepRunner<T>::read_inputs(std::size_t layer, T* to) const {
  const Index all = weights(layer).I, older = all - inputs(layer);
  for (Index b = 0; b < B_; ++b) to = std::copy_n(layers_[layer].wide + (b + 1) * all - older, older, to);
}

template <class T>
void StepRunner<T>::write_inputs(std::size_t layer, const T* from) {
  const Index all = weights(layer).I, older = all - inputs(layer);
  for (Index b = 0; b < B_; ++b, from += older) std::copy_n(from, older, layers_[layer].wide + (b + 1) * all - older);
}

template class StepRunner<float>;
template class StepRunner<double>;

}  // namespace fusedrnn
