#include "layer.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "cpu.h"
#include "dispatch.h"

namespace fusedrnn {

static std::size_t size(Index n) { return static_cast<std::size_t>(n); }

// ---- names --------------------------------------------------------------------------------------

static constexpr const char* kCellNames[kCellCount] = {
    "rnn_tanh",    "rnn_relu",          "gru_after",          "gru_before",         "gru_simple",   "lstm",
    "rnn_options", "gru_after_options", "gru_before_options", "gru_simple_options", "lstm_options", "lstm_coupled"};

static constexpr const char* kActivationNames[kActivationCount] = {
    "sigmoid",    "tanh", "relu",   "hard_sigmoid", "hard_tanh",        "softsign", "softplus",
    "leaky_relu", "elu",  "affine", "scaled_tanh",  "thresholded_relu", "linear"};

template <class Id, int N>
static Id named(const char* const (&names)[N], const std::string& name, const char* what) {
  for (int i = 0; i < N; ++i)
    if (name == names[i]) return static_cast<Id>(i);
  throw std::invalid_argument(std::string("unknown ") + what + " '" + name + "'");
}
CellId cell_named(const std::string& name) { return named<CellId>(kCellNames, name, "cell"); }
ActivationId activation_named(const std::string& name) {
  return named<ActivationId>(kActivationNames, name, "activation");
}
const char* name_of(CellId cell) { return kCellNames[cell]; }

// ---- schedule -----------------------------------------------------------------------------------

Schedule::Schedule(Index T, Index B, const std::int64_t* lengths, const std::uint8_t* mask, const std::uint8_t* reset)
    : T_(T), B_(B) {
  if (T < 0 || B < 0) throw std::invalid_argument("negative size");
  product(product(size(T), size(B)), sizeof(double));
  rows_.B = B;
  std::vector<Index> ends;  // a copy, because another thread may change the caller's array after the check
  if (lengths) ends.assign(lengths, lengths + B);
  for (const Index end : ends)
    if (end < 0 || end > T) throw std::invalid_argument("length outside [0, T]");
  if (B == 0) return;
  if (mask || reset) {
    if (!lengths) ends.assign(size(B), T);
    cut_into_runs(ends, mask, reset);
  } else if (lengths) {
    std::vector<Index> rows(size(B));
    std::iota(rows.begin(), rows.end(), Index{0});
    sort_by_length(std::move(ends), rows);
  } else {
    rows_.T = T;
  }
}

Schedule::Schedule(const Schedule& whole, Index part, Index parts) : T_(whole.T_), B_(whole.B_) {
  const Rows& all = whole.rows_;
  rows_.T = all.T;
  if (!all.length) {  // rows next to each other
    const Range share = part_of(all.B, part, parts);
    for (Index b = share.begin; b < share.end; ++b) order_.push_back(all.caller_row(b));
    rows_.B = share.end - share.begin;
    rows_.order = order_.data();
    return;
  }
  std::vector<Index> lengths, rows;  // long and short ones for every part
  for (Index b = part; b < all.B; b += parts) {
    lengths.push_back(all.length_of(b)), rows.push_back(all.caller_row(b));
    if (all.time) time_from_.push_back(all.time_from[b]);
  }
  sort_by_length(std::move(lengths), rows);
  if (!all.time) return;
  rows_.time = all.time;
  rows_.time_from = time_from_.data();
  rows_.gap = all.gap;
  rows_.gaps = part == 0 ? all.gaps : 0;
}

void Schedule::sort_by_length(std::vector<Index> lengths, const std::vector<Index>& rows) {
  const Index count = static_cast<Index>(rows.size());
  std::vector<Index> sorted(rows.size());
  std::iota(sorted.begin(), sorted.end(), Index{0});
  std::stable_sort(sorted.begin(), sorted.end(), [&](Index a, Index b) { return lengths[a] > lengths[b]; });
  for (const Index i : sorted) order_.push_back(rows[i]), length_.push_back(lengths[i]);
  if (!time_from_.empty()) {
    std::vector<Index> from;
    for (const Index i : sorted) from.push_back(time_from_[i]);
    time_from_ = std::move(from);
  }
  for (Index b = 0; b < count && !runs_.empty(); ++b) runs_[sorted[b]] = b;
  rows_.B = count;
  rows_.T = length_[0];
  rows_.order = order_.data();
  rows_.length = length_.data();
  active_.resize(size(rows_.T));
  offset_.resize(size(rows_.T) + 1);
  Index active = count;
  for (Index t = 0; t < rows_.T; ++t) {
    while (length_[active - 1] <= t) --active;
    active_[t] = active;
    offset_[t + 1] = offset_[t] + active;
  }
  rows_.active_at = active_.data();
  rows_.offset_at = offset_.data();
}

void Schedule::cut_into_runs(const std::vector<Index>& ends, const std::uint8_t* mask, const std::uint8_t* reset) {
  std::vector<Index> length, row;  // of runs, row by row in the order of time
  bool prefixes = true;            // every row is one run without holes: lengths say it all
  for (Index b = 0; b < B_; ++b, mask += mask ? T_ : 0, reset += reset ? T_ : 0) {
    const Index end = ends[size(b)];
    runs_from_.push_back(static_cast<Index>(row.size()));
    const auto start = [&] {
      time_from_.push_back(static_cast<Index>(time_.size())), row.push_back(b), length.push_back(0);
    };
    start();
    for (Index t = 0; t < end; ++t) {
      if (reset && t > 0 && reset[t]) start(), prefixes = false;
      if (mask && !mask[t]) {
        gaps_.push_back({t, b});
        continue;
      }
      prefixes = prefixes && length.back() == t;
      time_.push_back(t), ++length.back();
    }
    for (Index t = end; t < T_; ++t) gaps_.push_back({t, b});
  }
  runs_from_.push_back(static_cast<Index>(row.size()));
  if (prefixes) {
    time_.clear(), time_from_.clear(), gaps_.clear(), runs_from_.clear();
  } else {
    if (static_cast<Index>(row.size()) > B_) runs_.resize(row.size());
    time_.push_back(0);  // a table that is there has an address
  }
  sort_by_length(std::move(length), row);
  if (prefixes) return;
  rows_.time = time_.data();
  rows_.time_from = time_from_.data();
  rows_.gap = gaps_.data();
  rows_.gaps = static_cast<Index>(gaps_.size());
}

std::vector<Index> Schedule::held_from(bool reverse) const {
  std::vector<Index> from(product(size(T_), size(B_)), -1);
  for (Index b = 0; b < rows_.B; ++b)
    for (Index t = 0; t < rows_.length_of(b); ++t) {
      const Index time = rows_.caller_time(t, b, false);
      from[time * B_ + rows_.caller_row(b)] = time;
    }
  for (Index t = 1; t < T_; ++t)
    for (Index b = 0, at = reverse ? T_ - 1 - t : t, before = reverse ? at + 1 : at - 1; b < B_; ++b)
      if (from[at * B_ + b] < 0) from[at * B_ + b] = from[before * B_ + b];
  return from;
}

// A token as it was when it was read, once: the caller's array may change at any time, and an id that was checked in
// one reading and used in another would be a wild address, in forward and in backward. A negative t: of a single step.
static std::int64_t take_token(const std::int64_t* from, Index input_size, Index t, Index b) {
  const std::int64_t id = __atomic_load_n(from, __ATOMIC_RELAXED);
  if (id >= 0 && id < input_size) return id;
  throw std::out_of_range("tokens" + (t < 0 ? "" : "[" + std::to_string(t) + "]") + "[" + std::to_string(b) + "] is " +
                          std::to_string(id) + "; expected 0 <= token < input_size = " + std::to_string(input_size));
}

// Those of the steps that run, in the order of rows.
static void take_tokens(const std::int64_t* from, std::int64_t* to, const Schedule& schedule, Index input_size,
                        bool reverse) {
  const Rows& rows = schedule.rows();
  for (Index t = 0; t < rows.T; ++t)
    for (Index b = 0; b < rows.active(t); ++b) {
      const Index time = rows.caller_time(t, b, reverse), row = rows.caller_row(b);
      *to++ = take_token(from + time * schedule.B() + row, input_size, time, row);
    }
}

template <class T>
void hold(const Schedule& schedule, const Strided& y, Index H, bool reverse) {
  const std::vector<Index> from = schedule.held_from(reverse);
  const auto at = [&](Index t, Index b) { return reinterpret_cast<T*>(y.data + t * y.time + b * y.batch); };
  for (Index t = 0; t < schedule.T(); ++t)
    for (Index b = 0; b < schedule.B(); ++b) {
      const Index source = from[t * schedule.B() + b];
      if (source < 0) std::fill_n(at(t, b), H, T(0));
      else if (source != t) std::copy_n(at(source, b), H, at(t, b));
    }
}

template <class T>
void sum_held(const Schedule& schedule, const Strided& dy, T* sums, Index H, bool reverse) {
  const std::vector<Index> from = schedule.held_from(reverse);
  const Index steps = schedule.T(), B = schedule.B();
  for (Index step = 0; step < steps; ++step)
    for (Index b = 0, t = reverse ? steps - 1 - step : step; b < B; ++b) {
      const Index source = from[t * B + b];
      if (source < 0) continue;
      const T* d = reinterpret_cast<const T*>(dy.data + t * dy.time + b * dy.batch);
      T* sum = sums + (source * B + b) * H;
      if (source == t) std::copy_n(d, H, sum);
      else
        for (Index k = 0; k < H; ++k) sum[k] += d[k];
    }
}

template void hold<float>(const Schedule&, const Strided&, Index, bool);
template void hold<double>(const Schedule&, const Strided&, Index, bool);
template void sum_held<float>(const Schedule&, const Strided&, float*, Index, bool);
template void sum_held<double>(const Schedule&, const Strided&, double*, Index, bool);

// ---- how many threads ---------------------------------------------------------------------------

namespace {

// A second thread pays when a step is long against the 0.2-0.5 us at which threads meet, and a region when the call is
// long against starting it. The rates are this side of what the kernels reach; only the order of magnitude matters.
constexpr double kMeeting = 0.2e-6, kRegion = 15e-6;  // seconds
// Threads of a region that ended a moment ago still spin, and are there at once; after a fork they are new ones each
// time.
constexpr double kWarmRegion = 5e-6, kForkedRegion = 300e-6;
constexpr long long kMoment = 50'000;  // ns
constexpr double kL3Rate = 25e9;       // bytes a second for one core, where it is slow

// What a call has to take for starting threads to pay.
double region_seconds() { return after_fork() ? kForkedRegion : kRegion; }

double meeting_seconds() { return kMeeting * meeting_slowness(); }

// Bytes of weights that one core's L2 surely holds beside a step's other data.
double core_cache() { return 0.75 * static_cast<double>(l2_bytes()); }

double seconds_of(const Workload& load) {
  const double memory = static_cast<double>(load.steps) * load.weight_bytes / 80e9;
  return std::max(load.flops / (7e9 * load.lanes), memory);
}

TeamShape choose_team(const Workload& load, Index most) {
  const double seconds = seconds_of(load);
  if (most <= 1 || load.steps == 0 || seconds < region_seconds()) return {};
  TeamShape shape;
  shape.size =
      std::min<Index>(most, static_cast<Index>(seconds / static_cast<double>(load.meetings) / meeting_seconds()));
  if (shape.size <= 1) return {};
  const Index units = std::min(shape.size, load.unit_panels);
  // Threads beyond the panels take other rows; fewer than eight rows each would starve the tiles.
  shape.row_groups = std::clamp<Index>(shape.size / units, 1, std::max<Index>(load.rows / 8, 1));
  shape.size = units * shape.row_groups;
  return shape;
}

// What a call takes on its share of `most` threads.
double seconds_of(const Workload& load, Index most) {
  const Index threads = choose_team(load, most).size;
  return seconds_of(load) / static_cast<double>(threads) +
         (threads > 1 ? meeting_seconds() * static_cast<double>(load.meetings) : 0);
}

// One core reads all weights of a call: well while they fit its cache, or come from L3 long before the step's products
// are done.
bool suits_one_core(const Workload& load) {
  if (load.steps == 0) return false;
  const double products = load.flops / static_cast<double>(load.steps) / (7e9 * load.lanes);
  return load.weight_bytes <= static_cast<double>(l2_bytes()) || 1.5 * load.weight_bytes / kL3Rate < products;
}

// Into how many shares of its rows a call is best cut, a thread each. Those need not meet at all, and write no memory
// that lies between what another core writes; but each reads all weights, and tiles of few rows read them for little.
Index shares_of_rows(const Workload& load, ThreadLimit& limit) {
  const Index rows = load.weight_bytes <= core_cache() / 2 ? 2 : 8;
  if (load.rows < 2 * rows || load.steps == 0 || seconds_of(load) < region_seconds()) return 1;
  const Index threads = limit.most();
  Workload share = load;
  share.flops /= static_cast<double>(threads);
  return load.rows >= threads * rows && suits_one_core(share) ? threads : 1;
}

// How many steps a layer runs behind the one below it: enough to make a product of their input part, few beside all.
Index steps_behind(const Workload& load) { return std::clamp<Index>(load.steps / 12, 4, 16); }

// How many of these layers, from the first on, had better run as a wavefront than each in turn over all threads: as
// many as there are threads for, or one. Each core then reads all weights of its layer.
Index wavefront(const Workload* loads, Index count, ThreadLimit& limit) {
  double seconds = 0, apart = 0, slowest = 0;
  for (Index l = 0; l < count; ++l) seconds += seconds_of(loads[l]);
  if (count < 2 || loads[0].steps == 0 || seconds < region_seconds()) return 1;
  const Index threads = limit.most(), layers = std::min(threads, count);
  for (Index l = 0; l < layers; ++l) {
    const Index shares = shares_of_rows(loads[l], limit);
    apart += shares > 1 ? seconds_of(loads[l]) / static_cast<double>(shares) : seconds_of(loads[l], threads);
    slowest = std::max(slowest, seconds_of(loads[l], threads / layers));
    if (threads / layers == 1 && !suits_one_core(loads[l])) return 1;
  }
  const double behind =
      static_cast<double>((layers - 1) * steps_behind(loads[0])) / static_cast<double>(loads[0].steps);
  return layers > 1 && slowest * (1 + behind) < apart ? layers : 1;
}

using Work = std::function<void(Member&)>;

void run_team(std::vector<TeamWork> works, Interrupt interrupt) {
  if (!run_teams(std::move(works), interrupt.check, interrupt.argument)) throw Interrupted();
}

// Several calls that do not depend on each other. Side by side they need not meet at all, but every core then reads all
// weights of its call: it pays while that suits a core, and while no call is so long that the others' threads wait for
// it. Beyond, each call in turn is split over all cores, which hold its weights together.
class SideBySide {
 public:
  SideBySide(const std::vector<Workload>& loads, ThreadLimit& limit) : loads_(loads) {
    double seconds = 0;
    for (std::size_t i = 0; i < loads.size(); ++i)
      if (suits_one_core(loads[i])) calls_.push_back(i), seconds += seconds_of(loads[i]);
    if (calls_.size() < 2 || seconds <= region_seconds() || (threads_ = size(limit.most())) < 2) {
      calls_.clear();
      return;
    }
    std::stable_sort(calls_.begin(), calls_.end(),
                     [&](std::size_t a, std::size_t b) { return seconds_of(loads[a]) > seconds_of(loads[b]); });
    // As many calls as there are threads, or several times as many, are taken by a thread each, the longest first;
    // those that are left over share the threads among them.
    const std::size_t left = calls_.size() % threads_;
    share_ = left ? static_cast<Index>(threads_ / left) : 1;
    queued_ = calls_.size() - left;
    if (queued_ > 0 && (left == 0 || choose_team(loads[calls_[queued_]], share_).size == 1)) queued_ = calls_.size();
    double apart = 0;
    for (const std::size_t i : calls_) apart += seconds_of(loads[i], static_cast<Index>(threads_));
    if (together() > apart) calls_.clear();
  }

  bool empty() const { return calls_.empty(); }
  bool has(std::size_t call) const { return std::find(calls_.begin(), calls_.end(), call) != calls_.end(); }

  void run(const std::vector<Work>& works, Interrupt interrupt) const {
    std::atomic<std::size_t> next{0};
    const Work take = [&](Member& m) {
      for (std::size_t i; (i = next++) < queued_;) works[calls_[i]](m);
    };
    if (queued_ > 0) run_team(std::vector<TeamWork>(threads_, {{}, take}), interrupt);
    std::vector<TeamWork> teams;
    for (std::size_t i = queued_; i < calls_.size(); ++i)
      teams.push_back({choose_team(loads_[calls_[i]], share_), works[calls_[i]]});
    if (!teams.empty()) run_team(std::move(teams), interrupt);
  }

 private:
  double together() const {
    std::vector<double> busy(threads_);  // until when
    for (std::size_t i = 0; i < queued_; ++i)
      *std::min_element(busy.begin(), busy.end()) += seconds_of(loads_[calls_[i]]);
    return *std::max_element(busy.begin(), busy.end()) +
           (queued_ < calls_.size() ? seconds_of(loads_[calls_[queued_]], share_) : 0);
  }

  const std::vector<Workload>& loads_;
  std::vector<std::size_t> calls_;  // the longest first
  std::size_t threads_ = 1, queued_ = 0;
  Index share_ = 1;
};

void run_split(const Work& work, const Workload& load, ThreadLimit& limit, Interrupt interrupt) {
  const Index threads = load.steps > 0 && seconds_of(load) >= region_seconds() ? limit.most() : 1;
  run_team({{choose_team(load, threads), work}}, interrupt);
}

void run_works(const std::vector<Work>& works, const std::vector<Workload>& loads, const SideBySide& together,
               ThreadLimit& limit, Interrupt interrupt) {
  if (!together.empty()) together.run(works, interrupt);
  for (std::size_t i = 0; i < works.size(); ++i)
    if (!together.has(i)) run_split(works[i], loads[i], limit, interrupt);
}

template <class T>
void copy_rows(T* to, Index to_stride, const T* from, Index from_stride, Index rows, Index width, const Rows& order,
               bool sorted_to) {
  for (Index b = 0; b < rows; ++b) {
    const Index other = order.caller_row(b);
    T* target = to + (sorted_to ? b : other) * to_stride;
    if (from)
      std::memcpy(target, from + (sorted_to ? other : b) * from_stride, static_cast<std::size_t>(width) * sizeof(T));
    else std::memset(target, 0, static_cast<std::size_t>(width) * sizeof(T));
    if (sorted_to)  // padded lanes start from zero and stay there
      std::memset(target + width, 0, static_cast<std::size_t>(to_stride - width) * sizeof(T));
  }
}

}  // namespace

// ---- weights ------------------------------------------------------------------------------------

template <class T>
const CellKernels<T>& Weights<T>::kernel() const {
  return table_of<T>(*kernels).cells[cell];
}

template <class T>
Index Weights<T>::padded() const {
  const Index lanes = table_of<T>(*kernels).lanes;
  return (H + lanes - 1) / lanes * lanes;
}

template <class T>
Index Weights<T>::padded(int state) const {
  const Index lanes = table_of<T>(*kernels).lanes;
  return (units(state) + lanes - 1) / lanes * lanes;
}

template <class T>
Form Weights<T>::form(bool masked) const {
  if (structure.normed) return kNormed;
  if (structure.R) return kProjected;
  const bool plain = !masked && structure.zoneout[0] == 0 && structure.zoneout[1] == 0;
  return plain && has_form(kPlain) ? kPlain : kMasked;
}

template <class T>
Weights<T>::Weights(const Kernels& kernels_, CellId cell_, const CellOptions& options, Index I_, Index H_,
                    const RawWeights<T>& raw, bool training_, const Structure& structure_, Interrupt interrupt) {
  kernels = &kernels_;
  cell = cell_, I = I_, H = H_, training = training_, structure = structure_;
  R = structure.R ? structure.R : H;
  is_double = sizeof(T) == 8;
  if (!has_form(form(false))) throw std::invalid_argument("Weights: this cell has no such form");
  const Index lanes = table_of<T>(*kernels).lanes;
  const std::size_t wide = size(padded()), wide_R = size(padded(0)), wide_I = size((I + lanes - 1) / lanes * lanes),
                    G = size(kernel().gates);
  Arena arena;
  const std::size_t W_x = arena.add(product(G * wide, size(I)), sizeof(T)),
                    W_h = arena.add(product(G * wide, size(R)), sizeof(T));
  const std::size_t b_x = arena.add(G * wide, sizeof(T)), b_h = arena.add(wide, sizeof(T));
  const Index unit_parameters = kernel().unit_parameters;
  const std::size_t units = arena.add(product(size(unit_parameters), wide), sizeof(T));
  const std::size_t W_x_back = training ? arena.add(product(G * wide, wide_I), sizeof(T)) : 0;
  const std::size_t W_h_back = training ? arena.add(product(G * wide, wide_R), sizeof(T)) : 0;
  const std::size_t W_r = structure.R ? arena.add(product(wide_R, size(H)), sizeof(T)) : 0;
  const std::size_t W_r_back = structure.R && training ? arena.add(product(wide_R, wide), sizeof(T)) : 0;
  const std::size_t norm = structure.normed ? arena.add(product(4 * G + 2, wide), sizeof(T)) : 0;
  memory_ = arena.allocate();
  nbytes = arena.size();
  char* base = memory_.as<char>();
  const auto at = [&](std::size_t offset) { return reinterpret_cast<T*>(base + offset); };
  packed.I = I, packed.H = H, packed.R = R;
  packed.W_x = at(W_x), packed.W_h = at(W_h), packed.b_x = at(b_x), packed.b_h = at(b_h);
  if (training) packed.W_x_back = at(W_x_back), packed.W_h_back = at(W_h_back);
  packed.fetch_ahead = G * wide * size(R) * sizeof(T) > l2_bytes();
  packed.options = options;
  if (unit_parameters > 0) {
    packed.units = at(units);
    std::memset(packed.units, 0, size(unit_parameters) * wide * sizeof(T));
    for (Index row = 0; row < raw.unit_rows; ++row)
      std::copy_n(raw.units + row * H, H, packed.units + (unit_parameters - raw.unit_rows + row) * padded());
  }
  if (structure.R) packed.W_r = at(W_r);
  if (structure.R && training) packed.W_r_back = at(W_r_back);
  if (structure.normed) {
    T* next = at(norm);
    for (T** gates : {&packed.norm.gain_x, &packed.norm.gain_h, &packed.norm.bias_x, &packed.norm.bias_h})
      *gates = next, next += G * wide;
    packed.norm.gain_c = next, packed.norm.bias_c = next + wide;
    packed.norm.eps = static_cast<T>(raw.norm.eps);
    kernel().pack_norm(raw.norm, packed.norm, H);
  }

  // Packing moves a word per cycle or so; below some 64 KiB a second thread's start costs more.
  const Index threads =
      nbytes < (std::size_t{1} << 17) ? 1 : std::min(ThreadLimit().most(), static_cast<Index>(nbytes >> 16));
  if (!run_teams({{{threads, 1}, [&](Member& m) { kernel().pack(raw, packed, m); }}}, interrupt.check,
                 interrupt.argument))
    throw Interrupted();
}

// ---- forward ------------------------------------------------------------------------------------

template <class T>
ForwardCall<T>::ForwardCall(std::shared_ptr<const Weights<T>> weights, std::shared_ptr<const Schedule> schedule,
                            const ForwardArrays<T>& arrays, bool reverse, bool training, ThreadLimit& threads)
    : weights_(weights), schedule_(schedule), arrays_(arrays) {
  const CellKernels<T>& kernel = weights->kernel();
  const Rows& rows = schedule->rows();
  const Index I = weights->I, H = weights->H, B = rows.B, N = schedule->row_count(), wide = weights->padded();
  const bool keep = training && kernel.saved > 0;
  form_ = weights->form(arrays.masked());
  const bool masked = form_ != kPlain, projected = form_ == kProjected, normed = form_ == kNormed;
  Forward<T>& f = f_;
  f.weights = &weights->packed;
  f.rows = rows;
  f.reverse = reverse;
  f.keep = keep;
  f.history = training;
  f.x = arrays.x;
  f.x_direct = arrays.x_direct;
  f.y = arrays.y;
  f.y_T = schedule->T();
  f.input_rows = kInputRows;
  for (Index t = 0; t < rows.T;) {
    const Index end = chunk_end(rows, t, f.input_rows);
    f.chunk_rows = std::max(f.chunk_rows, rows.offset(end) - rows.offset(t));
    t = end;
    if (!rows.offset_at) break;  // all chunks are alike
  }
  f.gate_rows = keep ? N : f.chunk_rows;

  const int lanes = table_of<T>(*weights->kernels).lanes;
  const double gate_columns = static_cast<double>(kernel.gates * wide);
  const Index most_blocks = std::max(1, 4 / kernel.gates);
  load_.flops = 2.0 * static_cast<double>(N) * gate_columns * static_cast<double>(weights->R + (arrays.tokens ? 1 : I));
  load_.weight_bytes = gate_columns * static_cast<double>(weights->R) * sizeof(T);
  if (projected) load_.flops += 2.0 * static_cast<double>(N * weights->R * H);
  load_.steps = rows.T, load_.rows = B, load_.lanes = lanes;
  load_.meetings = rows.T * (kernel.phases + projected + normed);
  load_.unit_panels = (wide / lanes + most_blocks - 1) / most_blocks;

  // One allocation: the tape's, and what only this call needs.
  if (training) tape_ = std::make_unique<Tape<T>>();
  Tape<T>* const tape = tape_.get();
  Arena kept, scratch;
  Arena& lasting = training ? kept : scratch;
  const std::size_t columns = size(kernel.gates + kernel.split) * size(wide);
  const std::size_t gates = (keep ? kept : scratch).add(product(columns, size(f.gate_rows)), sizeof(T));
  const std::size_t state_rows = training ? sum(size(B), size(N)) : 2 * size(B);
  std::size_t states[kMaxStates] = {};
  for (int s = 0; s < kernel.states; ++s)
    states[s] = lasting.add(product(state_rows, size(weights->padded(s))), sizeof(T));
  const std::size_t operand_rows = training ? size(N) : size(B);
  const std::size_t operand = kernel.phases == 2 ? lasting.add(product(operand_rows, size(wide)), sizeof(T)) : 0;
  const std::size_t hidden = projected ? lasting.add(product(operand_rows, size(wide)), sizeof(T)) : 0;
  // Masks: the caller's in the order of rows, or one neutral row for all.
  const Index wide_h = weights->padded(0);
  const std::size_t mask =
      masked ? lasting.add(product(arrays.recurrent_mask ? size(B) : 1, size(wide_h)), sizeof(T)) : 0;
  const std::size_t recurrent = arrays.recurrent_mask ? lasting.add(product(state_rows, size(wide_h)), sizeof(T)) : 0;
  const bool zoned_c = arrays.kept[1].data || (normed && weights->structure.zoneout[1] != 0);
  const std::size_t candidate = zoned_c ? lasting.add(product(state_rows, size(wide)), sizeof(T)) : 0;
  std::size_t kept_rows[kMaxStates] = {};
  if (masked)
    for (int s = 0; s < kernel.states; ++s)
      kept_rows[s] = lasting.add(product(arrays.kept[s].data ? size(N) : 1, size(weights->padded(s))), 1);
  const Index blocks = wide / lanes, groups = 1 + kernel.split;
  const std::size_t products_h = normed ? lasting.add(product(size(kernel.gates * wide), operand_rows), sizeof(T)) : 0;
  const std::size_t saved = normed && training ? kept.add(product(columns, size(N)), sizeof(T)) : 0;
  const std::size_t moments = normed && training ? kept.add(product(size(4 * groups + 2), size(N)), sizeof(T)) : 0;
  const std::size_t shares =
      normed
          ? scratch.add(product(size(2 * blocks), sum(size(groups * f.chunk_rows), size((groups + 1) * B))), sizeof(T))
          : 0;
  const std::size_t x = training && !arrays.tokens ? kept.add(product(size(N), size(I)), sizeof(T)) : 0;
  const std::size_t tokens = arrays.tokens ? lasting.add(size(N), sizeof(std::int64_t)) : 0;
  gathering_threads_ = arrays.tokens || arrays.x_direct ? 0 : threads.most();
  const std::size_t gather = scratch.add(product(size(gathering_threads_ * kGatherRows), size(I)), sizeof(T));
  temporary_ = scratch.allocate();
  const auto place = [](const Buffer& b, std::size_t offset) { return reinterpret_cast<T*>(b.as<char>() + offset); };
  if (training) tape->memory = kept.allocate();
  const Buffer& long_lived = training ? tape->memory : temporary_;
  f.gates = place(keep ? long_lived : temporary_, gates);
  for (int s = 0; s < kernel.states; ++s) {
    f.states[s] = place(long_lived, states[s]);
    f.states_n[s] = schedule->cut() ? nullptr : arrays.state_n[s];
    f.states_n_stride[s] = arrays.state_n_stride[s];
    copy_rows(f.states[s], weights->padded(s), arrays.state[s], arrays.state_stride[s], B, weights->units(s), rows,
              true);
  }
  if (kernel.phases == 2) f.operand = place(long_lived, operand);
  f.recurrent = arrays.recurrent_mask ? place(long_lived, recurrent) : f.states[0];
  f.candidate = zoned_c ? place(long_lived, candidate) : f.states[1];
  if (normed) {
    f.norm.products_h = place(long_lived, products_h);
    f.norm.saved = training ? place(long_lived, saved) : f.gates;
    if (training) f.norm.moments = place(long_lived, moments);
    f.norm.shares_x = place(temporary_, shares);
    f.norm.shares_h = f.norm.shares_x + groups * 2 * blocks * f.chunk_rows;
    f.norm.shares_c = f.norm.shares_h + groups * 2 * blocks * B;
  }
  if (projected) f.hidden = place(long_lived, hidden);
  if (masked) {
    T* const factors = place(long_lived, mask);
    f.masks.recurrent = factors;
    if (arrays.recurrent_mask) {
      f.masks.recurrent_row = wide_h;
      copy_rows(factors, wide_h, arrays.recurrent_mask, arrays.recurrent_mask_stride, B, weights->R, rows, true);
      for (Index i = 0; i < B * wide_h; ++i) f.recurrent[i] = f.states[0][i] * factors[i];
    } else {
      std::fill_n(factors, wide_h, T(1));
    }
    for (int s = 0; s < kernel.states; ++s) {
      auto* const bytes = reinterpret_cast<std::uint8_t*>(long_lived.as<char>() + kept_rows[s]);
      f.masks.kept[s] = bytes;
      f.masks.kept_row[s] = arrays.kept[s].data ? weights->padded(s) : 0;
      if (!arrays.kept[s].data) std::memset(bytes, 0, size(weights->padded(s)));
      f.masks.rate[s] = arrays.kept[s].data ? T(0) : T(weights->structure.zoneout[s]);
    }
  }
  if (gathering_threads_ > 0) f.gather = place(temporary_, gather);
  if (arrays.tokens) {
    auto* const own = reinterpret_cast<std::int64_t*>(long_lived.as<char>() + tokens);
    take_tokens(arrays.tokens, own, *schedule, I, reverse);
    f.tokens = own;
  }

  if (training) {
    tape->weights = weights;
    tape->schedule = schedule;
    tape->reverse = reverse;
    tape->nbytes = kept.size();
    tape->gates = normed ? f.norm.saved : f.gates;
    tape->products_x = f.gates, tape->products_h = f.norm.products_h, tape->moments = f.norm.moments;
    for (int s = 0; s < kernel.states; ++s) tape->states[s] = f.states[s];
    tape->operand = f.operand;
    tape->form = form_;
    tape->recurrent = f.recurrent, tape->candidate = f.candidate, tape->hidden = f.hidden;
    tape->masks = f.masks;
    if (arrays.tokens) tape->tokens = f.tokens;
    else tape->x = place(tape->memory, x);
  }
}

// The caller may change x before backward: the tape has its own, in the order of rows.
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
      if (arrays_.x_direct) std::memcpy(tape_->x + to * I, from, size(I) * sizeof(T));
      else
        for (Index k = 0; k < I; ++k) std::memcpy(tape_->x + to * I + k, from + k * arrays_.x.feature, sizeof(T));
    }
  }
}

// The masks of zoneout, in the order of rows and padded to whole vectors.
template <class T>
void ForwardCall<T>::copy_kept(Member& m) const {
  for (int s = 0; s < weights_->kernel().states; ++s) {
    const Strided& from = arrays_.kept[s];
    if (!from.data) continue;
    const Index units = weights_->units(s), wide = weights_->padded(s);
    const Range steps = part_of(f_.rows.T, m.rank, m.team->size);
    for (Index t = steps.begin; t < steps.end; ++t)
      for (Index b = 0; b < f_.rows.active(t); ++b) {
        auto* to = const_cast<std::uint8_t*>(f_.masks.kept[s]) + (f_.rows.offset(t) + b) * wide;
        const char* row =
            from.data + f_.rows.caller_time(t, b, f_.reverse) * from.time + f_.rows.caller_row(b) * from.batch;
        for (Index k = 0; k < units; ++k) to[k] = row[k] != 0;  // read once, and a share of 0 or 1 whatever the byte
        std::memset(to + units, 0, size(wide - units));
      }
  }
}

template <class T>
std::vector<ForwardCall<T>> ForwardCall<T>::by_rows(Index parts) const {
  std::vector<ForwardCall> calls;
  if (parts <= 1 || f_.history || schedule_->cut()) return calls;
  ThreadLimit alone(1);
  for (Index part = 0; part < parts; ++part)
    calls.emplace_back(weights_, std::make_shared<Schedule>(*schedule_, part, parts), arrays_, f_.reverse, false,
                       alone);
  return calls;
}

template <class T>
void ForwardCall<T>::run(Member& m, Interrupt interrupt) const {
  assert(gathering_threads_ == 0 || m.team->size <= gathering_threads_);
  if (tape_ && !f_.tokens) copy_input(m, interrupt);
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
void run_one(ForwardCall<T>& call, ThreadLimit& threads, Interrupt interrupt) {
  const std::vector<ForwardCall<T>> shares = call.by_rows(shares_of_rows(call.load(), threads));
  if (shares.empty()) return run_split([&](Member& m) { call.run(m, interrupt); }, call.load(), threads, interrupt);
  std::vector<TeamWork> teams;
  for (const ForwardCall<T>& share : shares) teams.push_back({{}, [&](Member& m) { share.run(m, interrupt); }});
  run_team(std::move(teams), interrupt);
}

template <class T>
void run_forward(std::vector<ForwardCall<T>>& calls, ThreadLimit& threads, Interrupt interrupt) {
  std::vector<Work> works;
  std::vector<Workload> loads;
  for (ForwardCall<T>& call : calls) {
    works.push_back([&](Member& m) { call.run(m, interrupt); });
    loads.push_back(call.load());
  }
  const SideBySide together(loads, threads);
  if (!together.empty()) run_works(works, loads, together, threads, interrupt);
  for (std::size_t i = 0; i < calls.size() && together.empty(); ++i) run_one(calls[i], threads, interrupt);
  for (const ForwardCall<T>& call : calls) call.finish();
}

// As a wavefront: every layer on threads of its own, a few steps behind the one below. They meet once in these steps,
// where the threads that split a layer meet after each, and no core reads another layer's weights.
template <class T>
void run_wavefront(ForwardCall<T>* calls, Index layers, ThreadLimit& threads, Interrupt interrupt) {
  const Index steps = steps_behind(calls[0].load()), share = threads.most() / layers;
  std::vector<TeamWork> teams;
  for (Index l = layers; l-- > 0;) {  // the last first: its thread, which sees signals, is the last to end
    calls[l].keep_close(steps);
    teams.push_back({choose_team(calls[l].load(), share), [&, l](Member& m) { calls[l].run(m, interrupt); }, l > 0});
  }
  run_team(std::move(teams), interrupt);
}

template <class T>
void run_stacked(std::vector<ForwardCall<T>>& calls, ThreadLimit& threads, Interrupt interrupt) {
  std::vector<Workload> loads;
  for (const ForwardCall<T>& call : calls) loads.push_back(call.load());
  for (std::size_t i = 0; i < calls.size();) {
    const Index layers = wavefront(loads.data() + i, static_cast<Index>(calls.size() - i), threads);
    if (layers > 1) run_wavefront(&calls[i], layers, threads, interrupt);
    else run_one(calls[i], threads, interrupt);
    i += size(layers);
  }
  for (const ForwardCall<T>& call : calls) call.finish();
}

template <class T>
void read_states(const Tape<T>& tape, int state, T* before, T* after, bool* ran) {
  const Rows& rows = tape.schedule->rows();
  const Index units = tape.weights->units(state), wide = tape.weights->padded(state), B = tape.schedule->B();
  for (Index t = 0; t < rows.T; ++t)
    for (Index b = 0; b < rows.active(t); ++b) {
      const Index at = rows.caller_time(t, b, tape.reverse) * B + rows.caller_row(b);
      const Index from = t ? rows.B + rows.offset(t - 1) : 0;  // the first B rows are the initial state
      std::copy_n(tape.states[state] + (from + b) * wide, units, before + at * units);
      std::copy_n(tape.states[state] + (rows.B + rows.offset(t) + b) * wide, units, after + at * units);
      ran[at] = true;
    }
}

template void read_states<float>(const Tape<float>&, int, float*, float*, bool*);
template void read_states<double>(const Tape<double>&, int, double*, double*, bool*);

// ---- backward -----------------------------------------------------------------------------------

template <class T>
BackwardCall<T>::BackwardCall(const Tape<T>& tape, const BackwardArrays<T>& arrays) : tape_(tape), arrays_(arrays) {
  const Weights<T>& weights = *tape.weights;
  const CellKernels<T>& kernel = weights.kernel();
  const Rows& rows = tape.schedule->rows();
  const Index I = weights.I, H = weights.H, B = rows.B, N = tape.schedule->row_count(), wide = weights.padded();
  for (int s = 0; s < kernel.states && N > 0; ++s)
    if (tape.masks.rate[s] != T(0)) throw std::invalid_argument("backward: zoneout had no masks");

  Backward<T>& f = f_;
  f.weights = &weights.packed;
  f.rows = rows;
  f.reverse = tape.reverse;
  f.x = tape.x;
  f.tokens = tape.tokens;
  f.gates = tape.gates;
  for (int s = 0; s < kernel.states; ++s) f.states[s] = tape.states[s];
  f.operand = tape.operand;
  f.recurrent = tape.recurrent, f.candidate = tape.candidate, f.hidden = tape.hidden;
  f.masks = tape.masks;
  f.norm.products_x = tape.products_x, f.norm.products_h = tape.products_h, f.norm.moments = tape.moments;
  const bool masked = tape.form != kPlain, projected = tape.form == kProjected, normed = tape.form == kNormed;
  const Index R = weights.R, wide_h = weights.padded(0);
  f.few_rows = N > 0 && N <= kBackwardRows && kFewRows * N <= I + R && !projected;
  f.dy = arrays.dy;
  f.dx = arrays.dx;
  f.accumulate = arrays.accumulate;
  f.dx_T = tape.schedule->T();
  f.chunk_rows = std::max<Index>(std::min(N, kBackwardRows), rows.active(0));
  f.dW_ih = arrays.dW_ih, f.dW_hh = arrays.dW_hh, f.db_ih = arrays.db_ih, f.db_hh = arrays.db_hh;
  f.dW_hr = arrays.dW_hr;
  f.norm.dgain_ih = arrays.dgain_ih, f.norm.dgain_hh = arrays.dgain_hh;

  const int lanes = table_of<T>(*weights.kernels).lanes;
  const double gate_columns = static_cast<double>(kernel.gates * wide);
  const Index blocks_of_units = wide / lanes, blocks = wide_h / lanes,
              h_panels = (blocks + 3) / 4 + (blocks > 4 && (blocks + 3) / 4 % 2);
  load_.flops = 4.0 * static_cast<double>(N) * gate_columns * static_cast<double>(R + (arrays.dx.data ? I : 1));
  if (projected) load_.flops += 4.0 * static_cast<double>(N * R * H);
  load_.weight_bytes = gate_columns * static_cast<double>(R) * sizeof(T);
  load_.steps = rows.T, load_.rows = B, load_.lanes = lanes, load_.unit_panels = h_panels;
  load_.meetings = rows.T * (kernel.phases + projected + normed);

  Arena arena;
  const std::size_t columns = size(kernel.gates + kernel.split) * size(wide), gates = size(kernel.gates) * size(wide);
  const std::size_t dgates = arena.add(product(columns, size(f.chunk_rows)), sizeof(T));
  std::size_t dstates[kMaxStates] = {};
  for (int s = 0; s < kernel.states; ++s) dstates[s] = arena.add(product(size(B), size(weights.padded(s))), sizeof(T));
  const std::size_t doperand = kernel.phases == 2 ? arena.add(product(size(B), size(wide)), sizeof(T)) : 0;
  const std::size_t drecurrent = masked ? arena.add(product(size(B), size(wide_h)), sizeof(T)) : 0;
  const std::size_t dhidden = projected ? arena.add(product(size(B), size(wide)), sizeof(T)) : 0;
  const std::size_t dprojected = projected ? arena.add(product(size(f.chunk_rows), size(wide_h)), sizeof(T)) : 0;
  const std::size_t dproducts = normed ? arena.add(product(2 * columns, size(f.chunk_rows)), sizeof(T)) : 0;
  const std::size_t dseen = normed ? arena.add(product(size(wide), size(f.chunk_rows)), sizeof(T)) : 0;
  const std::size_t shares =
      normed ? arena.add(product(size(2 * (3 + 2 * kernel.split) * blocks_of_units), size(B)), sizeof(T)) : 0;
  const Index wide_x = (I + lanes - 1) / lanes * lanes, second = kernel.phases == 2 || projected ? wide : 0;
  const std::size_t inputs = arena.add(product(size(wide_x + wide_h + second), size(f.chunk_rows)), sizeof(T));
  const std::size_t dW_x = arena.add(product(gates, size(f.few_rows && !tape.tokens ? 0 : I)), sizeof(T)),
                    dW_h = arena.add(product(gates, size(f.few_rows ? 0 : R)), sizeof(T));
  const std::size_t dW_r = projected ? arena.add(product(size(wide_h), size(H)), sizeof(T)) : 0;
  const std::size_t db = arena.add(columns, sizeof(T));
  const std::size_t dunits = arena.add(product(size(kernel.unit_parameters), size(wide)), sizeof(T));
  const std::size_t dgains = normed ? arena.add(2 * gates + 2 * size(wide), sizeof(T)) : 0;
  memory_ = arena.allocate();
  const auto place = [&](std::size_t offset) { return reinterpret_cast<T*>(memory_.as<char>() + offset); };
  f.dgates = place(dgates);
  for (int s = 0; s < kernel.states; ++s) {
    f.dstates[s] = place(dstates[s]);
    if (tape.schedule->cut()) gather_final_states(s);
    else
      copy_rows(f.dstates[s], weights.padded(s), arrays.dstate_n[s], arrays.dstate_n_stride[s], B, weights.units(s),
                rows, true);
  }
  if (kernel.phases == 2) f.doperand = place(doperand);
  if (masked) {
    f.drecurrent = place(drecurrent);
    std::fill_n(f.drecurrent, B * wide_h, T(0));
  }
  if (projected) f.dhidden = place(dhidden), f.dprojected = place(dprojected), f.dW_r = place(dW_r);
  f.inputs = place(inputs);
  f.dW_x = place(dW_x), f.dW_h = place(dW_h), f.db = place(db);
  if (normed) {
    f.norm.dproducts_x = place(dproducts);
    f.norm.dproducts_h = f.norm.dproducts_x + static_cast<Index>(columns) * f.chunk_rows;
    f.norm.dseen = place(dseen), f.norm.shares = place(shares);
    f.norm.dgain_x = place(dgains), f.norm.dgain_h = f.norm.dgain_x + gates;
    f.norm.dgain_c = f.norm.dgain_h + gates, f.norm.dbias_c = f.norm.dgain_c + wide;
  }
  if (arrays.dunits) f.dunits = place(dunits);
  if (N == 0) std::memset(f.dW_x, 0, arena.size() - dW_x);  // nothing will be summed
}

template <class T>
void BackwardCall<T>::run(Member& m) const {
  tape_.weights->kernel().backward[tape_.form](f_, m);
}

// Only the last run of a row hands its final state out.
template <class T>
void BackwardCall<T>::gather_final_states(int s) const {
  const Schedule& schedule = *tape_.schedule;
  const Index wide = tape_.weights->padded(s);
  std::fill_n(f_.dstates[s], f_.rows.B * wide, T(0));
  for (Index row = 0; arrays_.dstate_n[s] && row < schedule.B(); ++row)
    std::copy_n(arrays_.dstate_n[s] + row * arrays_.dstate_n_stride[s], tape_.weights->units(s),
                f_.dstates[s] + schedule.last_run(row, tape_.reverse) * wide);
}

// All runs of a row start from its initial state: the gradient is their sum, in the order of time.
template <class T>
void BackwardCall<T>::finish() const {
  const Weights<T>& weights = *tape_.weights;
  const Schedule& schedule = *tape_.schedule;
  for (int s = 0; s < weights.kernel().states; ++s) {
    const Index wide = weights.padded(s), units = weights.units(s);
    if (!schedule.cut()) {
      copy_rows(arrays_.dstate[s], arrays_.dstate_stride[s], f_.dstates[s], wide, f_.rows.B, units, f_.rows, false);
      continue;
    }
    for (Index row = 0; row < schedule.B(); ++row) {
      const Range runs = schedule.runs_of(row);
      T* sum = arrays_.dstate[s] + row * arrays_.dstate_stride[s];
      std::copy_n(f_.dstates[s] + schedule.run(runs.begin) * wide, units, sum);
      for (Index i = runs.begin + 1; i < runs.end; ++i)
        for (Index k = 0; k < units; ++k) sum[k] += f_.dstates[s][schedule.run(i) * wide + k];
    }
  }
  if (arrays_.dgain_c) {
    std::copy_n(f_.norm.dgain_c, weights.H, arrays_.dgain_c);
    std::copy_n(f_.norm.dbias_c, weights.H, arrays_.dbias_c);
  }
  for (Index row = 0; row < arrays_.unit_rows; ++row)
    std::copy_n(f_.dunits + (weights.kernel().unit_parameters - arrays_.unit_rows + row) * weights.padded(), weights.H,
                arrays_.dunits + row * weights.H);
}

template <class T>
void BackwardCall<T>::detach_dx() {
  const Index item = sizeof(T), I = tape_.weights->I, B = tape_.schedule->B();
  dx_ = Buffer(product(product(size(tape_.schedule->T()), size(B)), size(I * item)));
  f_.dx = {dx_.as<char>(), B * I * item, I * item, item};
  f_.dx_T = f_.rows.gaps = 0;  // skipped steps are not added
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
  std::vector<Work> works;
  std::vector<Workload> loads;
  for (BackwardCall<T>& call : calls) {
    works.push_back([&](Member& m) { call.run(m); });
    loads.push_back(call.load());
  }
  ThreadLimit threads;
  const SideBySide together(loads, threads);
  std::vector<const BackwardCall<T>*> detached;  // what is added to another call's dx, is added in this order
  for (BackwardCall<T>& call : calls)
    if (!together.empty() && call.accumulates()) call.detach_dx(), detached.push_back(&call);
  run_works(works, loads, together, threads, interrupt);
  for (const BackwardCall<T>* call : detached) call->add_dx();
  for (const BackwardCall<T>& call : calls) call.finish();
}

// ---- one step -----------------------------------------------------------------------------------

template <class T>
StepRunner<T>::StepRunner(std::vector<std::shared_ptr<const Weights<T>>> layers, Index B, bool alone)
    : B_(B), alone_(alone), tokens_(size(B)) {
  for (auto& weights : layers) {
    const CellKernels<T>& kernel = weights->kernel();
    const std::size_t wide = size(weights->padded()), rows = size(B);
    Arena arena;
    const std::size_t gates = arena.add(product(size(kernel.gates + kernel.split) * wide, rows), sizeof(T));
    std::size_t states[kMaxStates] = {};
    for (int s = 0; s < kernel.states; ++s)
      states[s] = arena.add(product(2 * rows, size(weights->padded(s))), sizeof(T));
    const std::size_t operand = arena.add(product(rows, wide), sizeof(T));
    // A projected layer's hidden units use the second phase's operand, which it does not have.
    const std::size_t ones = arena.add(size(weights->padded(0)), sizeof(T)), no_bytes = arena.add(wide, 1);
    const bool normed = weights->structure.normed;
    const Index blocks = static_cast<Index>(wide) / table_of<T>(*weights->kernels).lanes, groups = 1 + kernel.split;
    const std::size_t products_h = normed ? arena.add(product(size(kernel.gates) * wide, rows), sizeof(T)) : 0;
    const std::size_t shares = normed ? arena.add(product(size(2 * blocks * (2 * groups + 1)), rows), sizeof(T)) : 0;
    const std::size_t candidate = normed ? arena.add(product(2 * rows, wide), sizeof(T)) : 0;
    Layer layer{weights, arena.allocate(), {}};
    std::memset(layer.memory.template as<char>(), 0, arena.size());
    const auto place = [&](std::size_t offset) {
      return reinterpret_cast<T*>(layer.memory.template as<char>() + offset);
    };
    Forward<T>& f = layer.forward;
    f.weights = &weights->packed;
    f.rows.T = B > 0 ? 1 : 0, f.rows.B = B;
    f.x_direct = true;
    f.gates = place(gates);
    f.gate_rows = f.chunk_rows = f.input_rows = B;
    for (int s = 0; s < kernel.states; ++s) f.states[s] = place(states[s]);
    f.operand = f.hidden = place(operand);
    f.recurrent = f.states[0], f.candidate = f.states[1];
    if (normed) {
      f.candidate = place(candidate);
      f.norm.products_h = place(products_h), f.norm.saved = f.gates;
      f.norm.shares_x = place(shares);
      f.norm.shares_h = f.norm.shares_x + groups * 2 * blocks * B;
      f.norm.shares_c = f.norm.shares_h + groups * 2 * blocks * B;
    }
    f.masks.recurrent = std::fill_n(place(ones), weights->padded(0), T(1)) - weights->padded(0);
    for (int s = 0; s < kernel.states; ++s) {
      f.masks.kept[s] = reinterpret_cast<const std::uint8_t*>(place(no_bytes));
      f.masks.rate[s] = T(weights->structure.zoneout[s]);
    }
    f.y_T = f.rows.T;
    const double products =
        static_cast<double>(kernel.gates * weights->H * (weights->R + weights->I) + weights->H * weights->structure.R);
    flops_ += 2.0 * static_cast<double>(B) * products;
    weight_bytes_ += products * sizeof(T);
    layers_.push_back(std::move(layer));
  }
}

// While one core's cache holds the weights, a second thread costs more than it brings. Beyond it, each thread keeps its
// share of the weights in its own cache; a share has to be worth waking a thread for. Steps that follow each other at
// once find the threads of the step before awake: they need less to be worth it.
template <class T>
bool StepRunner<T>::shareable() const {
  return !alone_ && weight_bytes_ > core_cache();
}

template <class T>
Index StepRunner<T>::threads() const {
  if (!shareable()) return 1;
  const Workload load{flops_, weight_bytes_, 1, 1, B_, table_of<T>(*layers_.front().weights->kernels).lanes};
  const bool awake = !after_fork() && now_ns() - last_step_ < kMoment;
  const double region = awake ? kWarmRegion : region_seconds();
  return std::max<Index>(1, std::min(ThreadLimit().most(), static_cast<Index>(seconds_of(load) / region)));
}

template <class T>
void StepRunner<T>::step(const T* x, const std::int64_t* tokens, T* y) {
  Index stride = layers_.front().weights->I;
  for (Index b = 0; tokens && b < B_; ++b) tokens_[size(b)] = take_token(tokens + b, stride, -1, b);
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    Layer& layer = layers_[l];
    Forward<T>& f = layer.forward;
    const Index item = sizeof(T);
    f.x = {reinterpret_cast<char*>(const_cast<T*>(x)), 0, stride * item, item};
    f.tokens = l == 0 && tokens ? tokens_.data() : nullptr;
    if (l + 1 == layers_.size()) f.y = {reinterpret_cast<char*>(y), 0, layer.weights->R * item, item};
    stride = layer.weights->padded(0);
    x = f.states[0] + (f.slot ^ 1) * B_ * stride;  // what this layer is about to write
  }
  const auto run = [this](Member& m) {
    for (const Layer& layer : layers_) layer.weights->kernel().forward[layer.weights->form(false)](layer.forward, m);
  };
  if (const Index size = threads(); size > 1) {
    run_teams({{{size, 1}, run}}, nullptr, nullptr);
  } else {
    Team team;
    int never = 0;
    team.stop = &never;
    Member member{&team, 0};
    run(member);
  }
  for (Layer& layer : layers_) layer.forward.slot ^= 1;
  if (shareable()) last_step_ = now_ns();
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
      std::fill_n(to, wide - n, T(0));  // a NaN of a step before must not stay in a padded lane
    }
}

template class StepRunner<float>;
template class StepRunner<double>;
template class Weights<float>;
template class Weights<double>;
template class ForwardCall<float>;
template class ForwardCall<double>;
template class BackwardCall<float>;
template class BackwardCall<double>;
template void run_stacked(std::vector<ForwardCall<float>>&, ThreadLimit&, Interrupt);
template void run_stacked(std::vector<ForwardCall<double>>&, ThreadLimit&, Interrupt);
template void run_forward(std::vector<ForwardCall<float>>&, ThreadLimit&, Interrupt);
template void run_forward(std::vector<ForwardCall<double>>&, ThreadLimit&, Interrupt);
template void run_backward(std::vector<BackwardCall<float>>&, Interrupt);
template void run_backward(std::vector<BackwardCall<double>>&, Interrupt);

}  // namespace fusedrnn
