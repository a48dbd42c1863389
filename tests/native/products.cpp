// A layer without a recurrent product, y = x W^T + b over ragged rows, forward and backward: it is made of
// kernels/products.h and chunk_products.h alone, as cells will be that mix nothing between their units. A problem comes
// from standard input, results go to standard output, both as raw arrays in the order below. test_products.py compiles
// it for one instruction set.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <thread>
#include <vector>

#include "../../csrc/kernels/chunk_products.h"

using namespace fusedrnn;
using namespace fusedrnn::FUSEDRNN_ISA;

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

// Rows by falling length, and steps as long as any row has one.
struct Ragged {
  std::vector<Index> order, length, active, offset{0};
  Rows rows;

  explicit Ragged(const std::vector<int64_t>& lengths) : order(lengths.size()) {
    const auto length_of = [&](Index b) { return lengths[static_cast<std::size_t>(b)]; };
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return length_of(a) > length_of(b); });
    for (const Index b : order) length.push_back(static_cast<Index>(length_of(b)));
    for (Index t = 0; t < length.front(); ++t) {
      active.push_back(std::count_if(length.begin(), length.end(), [&](Index n) { return n > t; }));
      offset.push_back(offset.back() + active.back());
    }
    rows.T = length.front(), rows.B = static_cast<Index>(length.size());
    rows.active_at = active.data(), rows.offset_at = offset.data();
    rows.order = order.data(), rows.length = length.data();
  }
};

constexpr int kOrder[] = {2, 0, 1, 3};  // of gates in their panels: of three or four, or from the second on, of two

template <class T>
struct Layer {
  const Rows& rows;
  const Index steps, I, room;  // steps of the caller's arrays; rows of a chunk
  const bool reverse, few_rows, has_tokens;
  const Phase<T> phase;
  std::vector<int64_t> tokens;                  // (N,)
  std::vector<T> x, W, b, dy, y, dx, dW, db;    // the caller's
  std::vector<T> x_rows;                        // (N, I): x in the order of rows
  std::vector<T> gates, gather, packed;         // of a chunk
  std::vector<T> W_x, W_back, b_x, dW_x, db_x;  // packed

  Layer(const Rows& r, Index T_, Index I_, Index H, int G, Index room_, Index threads, bool reverse_, bool few,
        bool of_tokens)
      : rows(r),
        steps(T_),
        I(I_),
        room(room_),
        reverse(reverse_),
        few_rows(few),
        has_tokens(of_tokens),
        phase(H, {G, 0, G, 0, 0, kOrder + (G < 3 ? 1 : 0)}) {
    const Index N = rows.offset(rows.T), columns = G * H, wide = G * phase.padded, wide_x = blocks_of<T>(I) * kLanes<T>;
    const auto make = [](std::vector<T>& v, Index n) { v.assign(static_cast<std::size_t>(n), T(-7)); };
    W = read<T>(columns * I), b = read<T>(columns);
    if (has_tokens) tokens = read<int64_t>(N);
    else x = read<T>(steps * rows.B * I), make(x_rows, N * I);
    dy = read<T>(steps * rows.B * columns);
    make(y, steps * rows.B * columns), make(dx, steps * rows.B * I), make(dW, columns * I), make(db, columns);
    make(gates, room * wide), make(gather, threads * kGatherRows * I), make(packed, wide_x * room);
    make(W_x, I * wide), make(W_back, wide * wide_x), make(b_x, wide), make(dW_x, I * wide), make(db_x, wide);
    for (Index t = 0, n = 0; t < rows.T && !has_tokens; ++t)
      for (Index row = 0; row < rows.active(t); ++row, ++n)
        std::copy_n(caller_row<T>(rows, array(x, I), t, row, reverse), I, x_rows.data() + n * I);
  }

  void run(Member& m) {
    pack_weights(m);
    zero_past_the_end<T>(rows, array(y, phase.gates * phase.units), steps, phase.gates * phase.units, m);
    zero_past_the_end<T>(rows, array(dx, I), steps, I, m);
    if (!barrier(m)) return;

    GateRows<T> at{gates.data(), room};
    const int64_t* const of = has_tokens ? tokens.data() : nullptr;
    InputProduct<T> input({array(x, I), false, gather.data(), of, reverse, I, W_x.data(), b_x.data()}, rows, m);
    for (Index t = 0, end; t < rows.T; t = end) {
      end = chunk_end(rows, t, room), at.from = rows.offset(t);
      input.chunk(&phase, 1, at, t, end, part_of(rows.B, row_rank(m), m.team->row_groups));
      if (!barrier(m)) return;
      for_each_output(m, at, y, t, end, [](const T& gate, T& output) { output = gate; });
      if (!barrier(m)) return;
    }

    ChunkProducts<T> chunk(rows, room, few_rows, phase.gates * static_cast<int>(widest_panel(phase.gates)), m);
    for (Index end = rows.T, begin; end > 0; end = begin) {
      for (begin = end - 1; begin > 0 && rows.offset(end) - rows.offset(begin - 1) <= room;) --begin;
      chunk.start(begin, end), at.from = chunk.from();
      if (!of) chunk.pack(x_rows.data(), I, I, row_of_step, packed.data());
      for_each_output(m, at, dy, begin, end, [](T& dgate, const T& doutput) { dgate = doutput; });
      if (!barrier(m)) return;
      const bool add = end < rows.T;
      const Range panels = chunk.my_panels(phase);
      for (Index p = panels.begin; p < panels.end; ++p) {
        chunk.bias_sums(phase, p, at, db_x.data(), add);
        if (of) chunk.token_sums(phase, p, at, of, I, dW_x.data(), add);
      }
      if (!of) {
        chunk.weight_sums(phase, kOfX, at, packed.data(), I, dW_x.data(), dW.data(), add);
        chunk.input_gradients(&phase, 1, at, {array(dx, I), reverse, false, I, W_back.data()});
      }
      if (!barrier(m)) return;
    }
    if (!few_rows || of) chunk.unpack(phase, kOfX, dW_x.data(), I, dW.data());
    chunk.unpack_bias(phase, kOfX, db_x.data(), db.data());
  }

 private:
  Strided array(std::vector<T>& v, Index features) const {
    const Index item = sizeof(T);
    return {reinterpret_cast<char*>(v.data()), rows.B * features * item, features * item, item};
  }

  void pack_weights(Member& m) {
    const Range panels = part_of(phase.panels.count, m.rank, m.team->size);
    for (Index p = panels.begin; p < panels.end; ++p) {
      pack_panel(phase, p, kOfX, W.data(), I, W_x.data() + phase.weight_offset(p, I));
      T* const bias = b_x.data() + phase.weight_offset(p, 1);
      zero(bias, phase.w_width(p));
      for_each_column(phase, p, kOfX, [&](Index row, Index column) { bias[column] = b.data()[row]; });
    }
    const Range columns = part_of(Panels(blocks_of<T>(I), kMaxBackVectors).count, m.rank, m.team->size);
    pack_back(phase, {0, phase.panels.count}, kOfX, W.data(), I, W_back.data(), columns, m);
  }

  // Calls visit(number in a gate row, the caller's number) for all of this thread's panels over steps [begin, end).
  template <class Visit>
  void for_each_output(Member& m, const GateRows<T>& at, std::vector<T>& callers, Index begin, Index end, Visit visit) {
    const Strided outputs = array(callers, phase.gates * phase.units);
    const Range panels = part_of(phase.panels.count, m.rank, m.team->size);
    for (Index p = panels.begin; p < panels.end; ++p)
      for (Index t = begin; t < end; ++t)
        for (Index row = 0; row < rows.active(t); ++row) {
          T* const gate = at.row(phase, p, rows.offset(t) + row);
          T* const output = caller_row<T>(rows, outputs, t, row, reverse);
          std::fill_n(gate, &callers == &dy ? phase.row_width(p) : 0, T(0));  // gradients of padded units
          for_each_column(phase, p, kOfX, [&](Index j, Index column) { visit(gate[column], output[j]); });
        }
  }
};

template <class T>
static void run(const std::vector<int64_t>& h) {
  const Ragged ragged(read<int64_t>(h[2]));
  const Index threads = h[6];
  Layer<T> layer(ragged.rows, h[1], h[3], h[4], static_cast<int>(h[5]), h[8], threads, h[9], h[10], h[11]);
  std::vector<Flag> flags(static_cast<std::size_t>(threads)), barriers(flags.size());
  int stop = 0;
  Team team;
  team.size = threads, team.row_groups = h[7];
  team.l2_bytes = h[12];
  team.flags = flags.data(), team.barriers = barriers.data(), team.stop = &stop;
  std::vector<std::thread> others;
  const auto share = [&](Index rank) {
    Member member{&team, rank};
    layer.run(member);
  };
  for (Index rank = 1; rank < threads; ++rank) others.emplace_back(share, rank);
  share(0);
  for (std::thread& other : others) other.join();
  for (const auto* result : {&layer.y, &layer.dx, &layer.dW, &layer.db}) write(*result);
}

int main() {
  // double?, T, B, I, H, gates, threads, row groups, rows of a chunk, reverse?, few rows?, tokens?
  const auto h = read<int64_t>(13);
  if (h[0]) run<double>(h);
  else run<float>(h);
}
