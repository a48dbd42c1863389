#include "windows.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "buffer.h"

namespace fusedrnn {

namespace {

constexpr Index kNumbers = Index(1) << 19;  // written between two questions whether the call was ended

// Counts numbers, and asks from time to time whether the call was ended.
class Watch {
 public:
  explicit Watch(Interrupt interrupt) : interrupt_(interrupt) {}
  void did(Index numbers) {
    if ((numbers_ += numbers) < kNumbers) return;
    numbers_ = 0;
    if (interrupt_.check && interrupt_.check(interrupt_.argument)) throw Interrupted();
  }

 private:
  const Interrupt interrupt_;
  Index numbers_ = 0;
};

template <class T>
T* row_of(const Strided& array, Index time, Index row) {
  return reinterpret_cast<T*>(array.data + time * array.time + row * array.batch);
}

}  // namespace

template <class T>
void widen(const Windows<T>& w, Interrupt interrupt) {
  const Rows& rows = w.schedule.rows();
  const bool contiguous = w.narrow.feature == static_cast<Index>(sizeof(T));
  Watch watch(interrupt);
  // Each input is read once, into its place at its own step; the other steps copy it from the step before.
  for (Index b = 0; b < rows.B; ++b) {
    const T* before = nullptr;
    for (Index step = 0, row = rows.caller_row(b); step < rows.length_of(b); ++step) {
      const Index time = rows.caller_time(step, b, w.reverse), older = (w.window - 1) * w.I;
      T* const to = row_of<T>(w.wide, time, row);
      if (before) std::copy_n(before + w.I, older, to);
      else std::fill_n(to, older, T(0));
      if (w.tokens) {
        const std::int64_t token = __atomic_load_n(w.tokens + w.schedule.place(time, row), __ATOMIC_RELAXED);
        if (token < 0 || token >= w.I) throw std::out_of_range("widen: a token is out of range");
        std::fill_n(to + older, w.I, T(0));
        to[older + token] = T(1);
      } else {
        const char* from = w.narrow.data + time * w.narrow.time + row * w.narrow.batch;
        if (contiguous) std::memcpy(to + older, from, size(w.I) * sizeof(T));
        else
          for (Index k = 0; k < w.I; ++k) std::memcpy(to + older + k, from + k * w.narrow.feature, sizeof(T));
      }
      before = to;
      watch.did(w.window * w.I);
    }
  }
}

template <class T>
void narrow(const Windows<T>& w, bool accumulate, void (*add)(const T*, T*, Index), Interrupt interrupt) {
  const Rows& rows = w.schedule.rows();
  Watch watch(interrupt);
  for (Index t = 0; !accumulate && t < w.schedule.T(); ++t)
    for (Index column = 0; column < w.schedule.columns(); ++column) {
      std::fill_n(row_of<T>(w.narrow, t, column), w.I, T(0));
      watch.did(w.I);
    }
  for (Index b = 0; b < rows.B; ++b)
    for (Index step = 0, row = rows.caller_row(b); step < rows.length_of(b); ++step) {
      const T* const from = row_of<T>(w.wide, rows.caller_time(step, b, w.reverse), row);
      for (Index place = std::max<Index>(0, w.window - 1 - step); place < w.window; ++place) {
        const Index source = step - (w.window - 1) + place;
        add(from + place * w.I, row_of<T>(w.narrow, rows.caller_time(source, b, w.reverse), row), w.I);
      }
      watch.did(w.window * w.I);
    }
}

template void widen<float>(const Windows<float>&, Interrupt);
template void widen<double>(const Windows<double>&, Interrupt);
template void narrow<float>(const Windows<float>&, bool, void (*)(const float*, float*, Index), Interrupt);
template void narrow<double>(const Windows<double>&, bool, void (*)(const double*, double*, Index), Interrupt);

}  // namespace fusedrnn
