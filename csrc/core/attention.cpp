#include "attention.h"

#include <algorithm>

#include "array_scan.h"
#include "buffer.h"
#include "dispatch.h"

namespace fusedrnn {
namespace {

constexpr double kBytesPerSecond = 8e9;      // of one core, from memory
constexpr double kVectorsPerSecond = 2.5e9;  // multiplications and additions

double number(Index n) { return static_cast<double>(n); }

}  // namespace

template <class T>
void run_convolution(Convolution<T> c, bool backward, Interrupt interrupt) {
  const AttentionTable<T>& table = attention_of<T>(current_kernels());
  const double numbers = number(c.T_) * number(c.B) * number(c.D);
  const double vectors = numbers / number(table.lanes) * (number(c.k) + (c.silu ? 20 : 0)) * (backward ? 3 : 1);
  const double bytes = numbers * (backward ? 3 : 2) * sizeof(T);
  c.groups = std::min(c.B, kConvolutionGroups);
  const Index shares = convolution_blocks(c.D) * (backward ? c.groups : c.B);
  ThreadLimit limit;
  const Index threads = threads_for(std::max(vectors / kVectorsPerSecond, bytes / kBytesPerSecond), shares, limit);
  Arena arena;
  arena.claim(c.work, product(product(size(convolution_rows(c.k)), size(kConvolutionBlock)), size(threads)));
  if (backward) arena.claim(c.sums, product(product(size(c.groups), sum(size(c.k), 1)), size(c.D)));
  const Buffer buffer = arena.allocate();
  const auto kernel = backward ? table.convolution_backward : table.convolution_forward;
  run_team(threads, [&](Member& member) { kernel(c, member); }, interrupt);
}

template <class T>
void run_attention(Attention<T> a, bool backward, Interrupt interrupt) {
  const AttentionTable<T>& table = attention_of<T>(current_kernels());
  const bool delta = a.beta.at, decays = a.decays != Attention<T>::kNone;
  const Index width = delta ? table.sweep_width : table.width, matrices = a.B * a.kv_heads;
  const Index value_blocks = (a.dv + width - 1) / width, key_blocks = (a.dk + table.width - 1) / table.width;
  const double states = number(a.T_) * number(matrices) * number(a.dk) * number(a.dv);
  const double each = (backward ? 9 : 3) + number(a.group() - 1) * (backward ? 3 : 1);
  ThreadLimit limit;
  const Index shares = matrices * (backward ? std::max(value_blocks, key_blocks) : value_blocks);
  const Index threads = threads_for(each * states / number(table.lanes) / kVectorsPerSecond, shares, limit);
  Arena arena;
  if (backward && decays) {
    const Index even = (a.T_ + kAttentionCheckpoints - 1) / kAttentionCheckpoints;
    a.spacing = std::max(kAttentionSpacing, rounded_up(even, kAttentionSteps));
    a.checkpoints = (a.T_ - 1) / a.spacing + 1;
  }
  const std::size_t parts = product(size(a.T_), size(matrices));
  if (backward && a.decays == Attention<T>::kPerHead) arena.claim(a.decay_parts, product(parts, size(key_blocks)));
  if (backward && delta) arena.claim(a.beta_parts, product(parts, size(value_blocks)));
  // The most that attention_work() adds up, in checked arithmetic.
  const std::size_t rows = size(rounded_up(std::max(a.dk, a.dv), 4 * table.lanes)), lanes = size(4 * table.lanes);
  product(sum(product(rows, sum(lanes, 4 * kAttentionSteps)), product(product(size(a.group() + 1), lanes), 96)),
          sum(size(a.checkpoints), 2));
  a.work_size = attention_work<T>(a, table.lanes, nullptr).size;
  arena.claim(a.work, product(size(a.work_size), size(threads)));
  const Buffer buffer = arena.allocate();
  const auto kernel = backward ? table.attention_backward : table.attention_forward;
  run_team(threads, [&](Member& member) { kernel(a, member); }, interrupt);
}

template void run_convolution(Convolution<float>, bool, Interrupt);
template void run_convolution(Convolution<double>, bool, Interrupt);
template void run_attention(Attention<float>, bool, Interrupt);
template void run_attention(Attention<double>, bool, Interrupt);

}  // namespace fusedrnn
