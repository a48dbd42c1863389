#include "strides.h"

#include <algorithm>
#include <cstdlib>
#include <vector>

namespace fusedrnn {

// Rows that are p and q apart along the two axes begin |p * inner - q * outer| bytes apart. For each q, only the two p
// around q * outer / inner can be too close.
static bool two_axes_apart(Axis inner, Axis outer, Index row) {
  constexpr Index kMost = 1 << 20;  // more than any real array has; a larger count would take long
  for (Index q = 1; q < outer.count; ++q) {
    Index distance;
    if (q > kMost || __builtin_mul_overflow(q, outer.stride, &distance)) return false;
    const Index p = distance / inner.stride, rest = distance % inner.stride;
    if (p >= inner.count) return true;  // beyond the inner axis, as it is for every larger q
    if (rest < row) return false;
    if (p + 1 < inner.count && inner.stride - rest < row) return false;
  }
  return true;
}

bool rows_apart(const Axis* given, int count, Index row) {
  std::vector<Axis> axes;
  for (int k = 0; k < count; ++k) {
    if (given[k].count == 0) return true;
    if (given[k].count > 1) axes.push_back({given[k].count, std::abs(given[k].stride)});
  }
  std::sort(axes.begin(), axes.end(), [](const Axis& a, const Axis& b) { return a.stride < b.stride; });
  Index reach = row;  // bytes from the start of the first row to the end of the last, over the axes so far
  bool nested = true;
  for (const Axis& axis : axes) {
    nested = nested && axis.stride >= reach;
    Index span;
    if (__builtin_mul_overflow(axis.count - 1, axis.stride, &span) || __builtin_add_overflow(reach, span, &reach))
      return false;
  }
  return nested || (axes.size() == 2 && axes[0].stride >= row && two_axes_apart(axes[0], axes[1], row));
}

}  // namespace fusedrnn
