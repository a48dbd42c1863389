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

constexpr Index kAhead = 32;                // numbers requested from memory before they are read
constexpr Index kNumbers = Index(1) << 19;  // read between two questions whether the call was ended: some milliseconds

template <class T>
void take(const char* from, T* to) {
  std::memcpy(to, from, sizeof(T));  // the caller's array may be unaligned
}

// One row of a matrix whose rows are far apart: each number is on a cache line of its own, so the numbers of the rest
// of the row, and of the beginning of the next, are requested ahead. Two thirds of the time without
// (docs/experiments.md).
template <class T>
void take_row(const char* row, const char* next, Index column, const std::int64_t* ids, Index count, T* to) {
  const Index ahead = std::min(count, kAhead);
  Index j = 0;
  for (; j < count - ahead; ++j) {
    __builtin_prefetch(row + ids[j + ahead] * column);
    take(row + ids[j] * column, to + j);
  }
  for (; j < count; ++j) {
    __builtin_prefetch(next + ids[j + ahead - count] * column);
    take(row + ids[j] * column, to + j);
  }
}

// `count` columns of a matrix whose columns are contiguous, at most a cache line's worth, so that lines of `to` are
// written whole; requests the columns after these, of which there are `more`, ahead. to: (rows, width)
template <class T>
void take_contiguous(const StridedMatrix& from, Range rows, const std::int64_t* ids, Index count, Index more, T* to,
                     Index width) {
  constexpr Index kLine = 64 / static_cast<Index>(sizeof(T));
  const char* row = from.data + rows.begin * from.row;
  for (Index r = rows.begin; r < rows.end; ++r, row += from.row, to += width) {
    if ((r - rows.begin) % kLine == 0)
      for (Index j = 0; j < more; ++j) __builtin_prefetch(row + ids[count + j] * from.column);
    for (Index j = 0; j < count; ++j) take(row + ids[j] * from.column, to + j);
  }
}

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
// the next, so that a page of the matrix is needed once. In Fortran order a column is one contiguous piece.
template <class T>
void take_columns(const StridedMatrix& from, const std::int64_t* ids, Index count, T* to, Interrupt interrupt) {
  const bool along_columns = std::abs(from.row) < std::abs(from.column);
  const auto by_rows = [=](Member& m) {
    const Range mine = part_of(from.rows, m.rank, m.team->size);
    Index taken = 0;
    for (Index r = mine.begin; r < mine.end; ++r)
      for (Index left = 0; left < count; left += kNumbers) {
        const Index n = std::min(count - left, kNumbers);
        const char* row = from.data + r * from.row;
        take_row(row, r + 1 < mine.end ? row + from.row : row, from.column, ids + left, n, to + r * count + left);
        if ((taken += n) >= kNumbers && ended(m)) return;
        taken %= kNumbers;
      }
  };
  const auto by_columns = [=](Member& m) {
    constexpr Index kWide = 64 / static_cast<Index>(sizeof(T));
    const Range mine = part_of(from.rows, m.rank, m.team->size);
    Index taken = 0;
    for (Index left = 0; left < count; left += kWide) {
      const Index n = std::min(count - left, kWide), more = std::min(count - left - n, kWide);
      take_contiguous(from, mine, ids + left, n, more, to + mine.begin * count + left, count);
      if ((taken += n * (mine.end - mine.begin)) >= kNumbers && ended(m)) return;
      taken %= kNumbers;
    }
  };
  const Work work = along_columns ? Work(by_columns) : Work(by_rows);
  // A number on a cache line of its own takes as long as several in a row.
  const double bytes = static_cast<double>(from.rows * count) * sizeof(T) * (along_columns ? 1 : 4);
  Machine machine;
  if (bytes >= machine.pack_alone_bytes) machine.threads = ThreadLimit().most();
  const Index threads = threads_for_packing(bytes, machine);
  if (threads == 1) run_alone(work, interrupt);
  else if (!run_teams({{{threads, 1}, work}}, interrupt.check, interrupt.argument)) throw Interrupted();
}

template void take_columns<float>(const StridedMatrix&, const std::int64_t*, Index, float*, Interrupt);
template void take_columns<double>(const StridedMatrix&, const std::int64_t*, Index, double*, Interrupt);

}  // namespace fusedrnn
