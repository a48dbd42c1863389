#include "schedule.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

#include "buffer.h"

namespace fusedrnn {

Schedule::Schedule(Index T, Index B, const std::int64_t* lengths, const std::uint8_t* mask, const std::uint8_t* reset)
    : T_(T), B_(B) {
  if (T < 0 || B < 0) throw std::invalid_argument("negative size");
  product(product(size(T), size(B)), sizeof(double));
  rows_.B = B;
  std::vector<Index> ends;  // copied, because another thread may change the caller's array after the check
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

Schedule::Schedule(const Schedule& whole, Index part, Index parts) : T_(whole.T_), B_(whole.B_), anew_(whole.anew_) {
  const Rows& all = whole.rows_;
  rows_.T = all.T;
  if (!all.length) {  // consecutive rows
    const Range share = part_of(all.B, part, parts);
    for (Index b = share.begin; b < share.end; ++b) order_.push_back(all.caller_row(b));
    rows_.B = share.end - share.begin;
    rows_.order = order_.data();
    return;
  }
  std::vector<Index> lengths, rows;  // every part gets long and short rows
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
  std::vector<Index> length, row;  // of the runs, row by row in the order of time
  bool prefixes = true;            // every row is one run without gaps: the lengths describe it completely
  for (Index b = 0; b < B_; ++b, mask += mask ? T_ : 0, reset += reset ? T_ : 0) {
    const Index end = ends[size(b)];
    runs_from_.push_back(static_cast<Index>(row.size()));
    const auto start = [&] {
      time_from_.push_back(static_cast<Index>(time_.size())), row.push_back(b), length.push_back(0);
    };
    start();
    for (Index t = 0; t < end; ++t) {
      if (reset && reset[t]) {
        if (t > 0) start(), prefixes = false;
        else anew_.resize(size(B_)), anew_[size(b)] = true;
      }
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
    time_.push_back(0);  // so that the table is not empty and has an address
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

// Reads a token once: the caller's array may change at any time, and an id that was checked in one read and used in
// another could be a wild address, in forward and in backward. A negative t means a single step.
static std::int64_t take_token(const std::int64_t* from, Index input_size, Index t, Index b) {
  const std::int64_t id = __atomic_load_n(from, __ATOMIC_RELAXED);
  if (id >= 0 && id < input_size) return id;
  throw std::out_of_range("tokens" + (t < 0 ? "" : "[" + std::to_string(t) + "]") + "[" + std::to_string(b) + "] is " +
                          std::to_string(id) + "; expected 0 <= token < input_size = " + std::to_string(input_size));
}

// The tokens of the steps that run, in the order of rows.
void take_tokens(const std::int64_t* from, std::int64_t* to, const Schedule& schedule, Index input_size, bool reverse) {
  const Rows& rows = schedule.rows();
  for (Index t = 0; t < rows.T; ++t)
    for (Index b = 0; b < rows.active(t); ++b) {
      const Index time = rows.caller_time(t, b, reverse), row = rows.caller_row(b);
      *to++ = take_token(from + time * schedule.B() + row, input_size, time, row);
    }
}

void take_tokens(const std::int64_t* from, std::int64_t* to, Index B, Index input_size) {
  for (Index b = 0; b < B; ++b) to[b] = take_token(from + b, input_size, -1, b);
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
    if (sorted_to) std::memset(target + width, 0, static_cast<std::size_t>(to_stride - width) * sizeof(T));
  }
}

template void copy_rows<float>(float*, Index, const float*, Index, Index, Index, const Rows&, bool);
template void copy_rows<double>(double*, Index, const double*, Index, Index, Index, const Rows&, bool);

}  // namespace fusedrnn
