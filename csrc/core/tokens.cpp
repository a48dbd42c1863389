#include "tokens.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "buffer.h"

namespace fusedrnn {

namespace {

// Up to this many words of a bitmap of the vocabulary for each token, the bitmap is quicker than sorting: clearing and
// counting a word takes about 1 ns, and sorting a token and finding it again about 50 ns.
constexpr Index kWordsOfAToken = 32;

std::vector<std::int64_t> number_by_bitmap(std::vector<std::int64_t>& tokens, Index input_size) {
  std::vector<std::uint64_t> occurs(size((input_size + 63) / 64));
  for (const std::int64_t token : tokens) occurs[size(token / 64)] |= std::uint64_t{1} << (token % 64);
  std::vector<std::int64_t> before(occurs.size()), distinct;  // before: tokens that precede those of a word
  distinct.reserve(std::min(tokens.size(), size(input_size)));
  for (std::size_t word = 0; word < occurs.size(); ++word) {
    before[word] = static_cast<std::int64_t>(distinct.size());
    for (std::uint64_t bits = occurs[word]; bits; bits &= bits - 1)
      distinct.push_back(static_cast<std::int64_t>(word) * 64 + __builtin_ctzll(bits));
  }
  for (std::int64_t& token : tokens) {
    const std::uint64_t lower = occurs[size(token / 64)] & ((std::uint64_t{1} << (token % 64)) - 1);
    token = before[size(token / 64)] + __builtin_popcountll(lower);
  }
  return distinct;
}

std::vector<std::int64_t> number_by_sorting(std::vector<std::int64_t>& tokens) {
  std::vector<std::int64_t> distinct = tokens;
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  for (std::int64_t& token : tokens)
    token = std::lower_bound(distinct.begin(), distinct.end(), token) - distinct.begin();
  return distinct;
}

// Whether the call was ended. Only rank 0 asks about signals (kernels/parallel.h).
bool ended(const Member& m) {
  if (m.rank == 0 && m.team->interrupted && m.team->interrupted(m.team->interrupted_argument))
    __atomic_store_n(m.team->stop, 1, __ATOMIC_RELAXED);
  return __atomic_load_n(m.team->stop, __ATOMIC_RELAXED) != 0;
}

constexpr Index kRowsAtOnce = 64;  // between two questions whether the call was ended, at most this many rows
constexpr Index kColumns = 1024;   // and this many columns

}  // namespace

std::vector<std::int64_t> number_tokens(const std::int64_t* tokens, std::int64_t* numbers, const Schedule& schedule,
                                        Index input_size) {
  std::vector<std::int64_t> own(size(schedule.row_count()));
  take_tokens(tokens, own.data(), schedule, input_size, false);
  const bool few = (input_size + 63) / 64 > kWordsOfAToken * schedule.row_count();
  std::vector<std::int64_t> distinct = few ? number_by_sorting(own) : number_by_bitmap(own, input_size);
  const Rows& rows = schedule.rows();
  const Index all = schedule.T() * schedule.B();
  if (schedule.row_count() != all) std::fill_n(numbers, all, 0);
  const std::int64_t* next = own.data();
  for (Index t = 0; t < rows.T; ++t)
    for (Index b = 0; b < rows.active(t); ++b)
      numbers[rows.caller_time(t, b, false) * schedule.B() + rows.caller_row(b)] = *next++;
  return distinct;
}

// In C order two columns of a row are far apart, and two rows farther: the columns of one row are read before those of
// the next, so that a page of the matrix is needed once. In Fortran order a column is one contiguous piece: a cache
// line's worth of columns is read row by row, so that lines of `to` are written whole.
template <class T>
void take_columns(const StridedMatrix& from, const std::int64_t* ids, Index count, T* to, Interrupt interrupt) {
  const bool along_columns = std::abs(from.row) < std::abs(from.column);
  const Index wide = along_columns ? 64 / static_cast<Index>(sizeof(T)) : kColumns;
  const auto take = [&](Member& m) {
    const Range mine = part_of(from.rows, m.rank, m.team->size);
    for (Index top = mine.begin; top < mine.end; top += kRowsAtOnce) {
      const Index bottom = std::min(top + kRowsAtOnce, mine.end);
      for (Index left = 0; left < count; left += kColumns) {
        const Index right = std::min(left + kColumns, count);
        for (Index first = left; first < right; first += wide)
          for (Index r = top, last = std::min(first + wide, right); r < bottom; ++r)
            for (Index j = first; j < last; ++j)
              std::memcpy(to + r * count + j, from.data + r * from.row + ids[j] * from.column, sizeof(T));
        if (ended(m)) return;
      }
    }
  };
  // A column's element is on a cache line of its own, unless the columns are contiguous.
  const double bytes = static_cast<double>(from.rows * count) * (along_columns ? sizeof(T) : 64);
  Machine machine;
  if (bytes >= machine.pack_alone_bytes) machine.threads = ThreadLimit().most();
  const Index threads = threads_for_packing(bytes, machine);
  if (threads == 1) run_alone(take, interrupt);
  else if (!run_teams({{{threads, 1}, take}}, interrupt.check, interrupt.argument)) throw Interrupted();
}

template void take_columns<float>(const StridedMatrix&, const std::int64_t*, Index, float*, Interrupt);
template void take_columns<double>(const StridedMatrix&, const std::int64_t*, Index, double*, Interrupt);

}  // namespace fusedrnn
