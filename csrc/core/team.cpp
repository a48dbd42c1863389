#include "team.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "cpu.h"

namespace fusedrnn {

long long now_ns() {
  using namespace std::chrono;
  return duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count();
}

namespace {

std::atomic<int> process_threads{0};  // 0: as OpenMP says
thread_local int local_threads = 0;

// GNU OpenMP keeps its sleeping workers with the thread that started them. After a fork that thread continues without
// the workers, and its next region would wait for them for ever. A thread started after the fork has no workers yet, so
// a region works there: the surviving thread runs its regions on a fresh thread. See docs/decisions/0003-threads.md.
thread_local bool forked = false;
struct RegisterForkHandler {
  RegisterForkHandler() {
    pthread_atfork(nullptr, nullptr, [] { forked = true; });
  }
} register_fork_handler;

// Contention: when other programs occupy the cores, threads that pass a barrier after every step wait for the scheduler
// instead of for each other, and two threads are many times slower than one. The time that a thread waits shows this:
// on one thread, the call would have taken `threads` times one thread's own work. If that would have been faster, calls
// run on one thread for a pause; consecutive pauses double in length. The judgement covers at least a millisecond of
// calls. After an idle period the threads sleep, and a busy host takes long to wake their cores: this delay does not
// count, or each pause would lead to the next. Before threads are used again after a pause, they pass a few trial
// barriers, and the call runs on one thread if these take long: a call may have hundreds of barriers. Results are the
// same either way.
class Contention {
 public:
  bool now() const { return now_ns() < until_.load(std::memory_order_relaxed); }
  bool lately() const { return pause_.load(std::memory_order_relaxed) > kFirstPause; }
  void report(Index threads, long long elapsed, long long waited) {
    const long long seen = seen_ += elapsed, alone = alone_ += threads * (elapsed - waited);
    if (seen < kWindow) return;
    seen_ = alone_ = 0;
    const long long pause = pause_.load(std::memory_order_relaxed);
    if (alone < seen) found();
    else if (pause > kFirstPause) pause_ = pause / 2;
  }
  void found() {
    const long long pause = pause_.load(std::memory_order_relaxed);
    until_ = now_ns() + pause;
    if (pause < kLongestPause) pause_ = 2 * pause;
  }

 private:
  static constexpr long long kWindow = 1'000'000, kFirstPause = 5'000'000, kLongestPause = 160'000'000;  // ns
  std::atomic<long long> until_{0}, pause_{kFirstPause}, seen_{0}, alone_{0};
} contention;

// The time of a barrier depends on the distance between the threads' cores, and a hypervisor moves cores while a
// process runs: two threads took 0.14 us, then 0.33 us for some minutes (docs/experiments.md). So from time to time a
// region begins with trial barriers. Their time is valid for kValid and then forgotten, so that the next call measures
// again.
class BarrierTime {
 public:
  static constexpr Index kFirst = 2, kCount = 8;   // during the first, some threads are still arriving
  static constexpr long long kPatience = 100'000;  // ns, for all of them
  bool known() const { return now_ns() < until_.load(std::memory_order_relaxed); }
  double slowness() const { return known() ? slowness_.load(std::memory_order_relaxed) : 1; }
  void report(Index threads, double ns) {
    slowness_ = std::max(1.0, ns / (kTwoThreads + kEachMore * static_cast<double>(threads - 2)));
    until_ = now_ns() + kValid;
  }

 private:
  static constexpr double kTwoThreads = 140, kEachMore = 10;  // ns, on cores near each other: docs/scaling.md
  static constexpr long long kValid = 100'000'000;            // ns
  std::atomic<double> slowness_{1};
  std::atomic<long long> until_{0};
} barrier_time;

constexpr long long kAwake = 1'000'000;  // ns that OpenMP's threads certainly spin after a region
std::atomic<long long> last_region{0};   // when the last region ended

int cores() {
#if defined(_OPENMP)
  return omp_get_num_procs();
#else
  return 1;
#endif
}

// A thread that is woken often finds itself on the core of the thread that woke it, and stays there for milliseconds.
void step_aside([[maybe_unused]] int cpu) {
#if defined(__linux__)
  cpu_set_t allowed;
  if (cpu < 0 || sched_getcpu() != cpu || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  cpu_set_t others = allowed;
  CPU_CLR(static_cast<unsigned>(cpu), &others);
  if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
  sched_setaffinity(0, sizeof allowed, &allowed);
#endif
}

// GNU OpenMP ends the process when the system refuses it a thread (too little address space for a stack, or a limit on
// processes). So before a region that starts threads, as many plain threads with the same stack size are started, kept
// until the last one has started, and joined. If this fails, the call runs on the calling thread, and calls during the
// next second are planned for the threads that could be started. What this check cannot detect:
// docs/decisions/0003-threads.md
class Starting {
 public:
  // Whether a region of this thread may have `workers` threads besides this one.
  static bool can_have(Index workers) {
    if (workers <= kept_) return true;
    const Index more = workers - kept_, started = start(more);
    if (started == more) return true;
    most_ = 1 + kept_ + started;
    until_ = now_ns() + kValid;
    return false;
  }
  // OpenMP keeps the workers of this thread's last region for the next region; a smaller region ends the surplus
  // workers.
  static void kept(Index workers) { kept_ = workers; }
  static Index limited(Index threads) {
    const long long until = until_.load(std::memory_order_relaxed);
    if (until == 0) return threads;
    if (now_ns() < until) return std::min<Index>(threads, most_);
    until_.store(0, std::memory_order_relaxed);
    return threads;
  }

 private:
  static constexpr long long kValid = 1'000'000'000;  // ns

  // How many of `count` threads can exist at the same time.
  static Index start(Index count) noexcept {
    const std::unique_ptr<pthread_t[]> threads(new (std::nothrow) pthread_t[static_cast<std::size_t>(count)]);
    pthread_attr_t attributes;
    if (!threads || pthread_attr_init(&attributes) != 0) return 0;
    Index started = 0;
    // If the C library refuses a stack size, OpenMP does not set it either.
    if (stack_bytes > 0) pthread_attr_setstacksize(&attributes, stack_bytes);
    std::mutex all_started;
    const auto wait = [](void* mutex) -> void* {
      const std::lock_guard<std::mutex> lock(*static_cast<std::mutex*>(mutex));
      return nullptr;
    };
    {
      const std::lock_guard<std::mutex> lock(all_started);
      while (started < count && pthread_create(&threads[started], &attributes, wait, &all_started) == 0) ++started;
    }
    for (Index i = 0; i < started; ++i) pthread_join(threads[i], nullptr);
    pthread_attr_destroy(&attributes);
    return started;
  }

  // The stack size of a worker. OpenMP's runtimes read it from the environment when they are loaded, which is before
  // this; 0: the system's default.
  static std::size_t read_stack_bytes() {
    for (const char* name : {"OMP_STACKSIZE", "GOMP_STACKSIZE", "KMP_STACKSIZE"}) {
      const char* text = std::getenv(name);
      if (!text) continue;
      char* unit = nullptr;
      errno = 0;
      const unsigned long long number = std::strtoull(text, &unit, 10);
      if (unit == text || errno != 0) continue;
      while (std::isspace(static_cast<unsigned char>(*unit))) ++unit;
      int shift = 10;
      switch (std::tolower(static_cast<unsigned char>(*unit))) {
        case 'b':
          shift = 0;
          break;
        case 'm':
          shift = 20;
          break;
        case 'g':
          shift = 30;
          break;
      }
      if (number > (~std::size_t{0} >> shift)) continue;
      return static_cast<std::size_t>(number) << shift;
    }
    return 0;
  }

  static inline const std::size_t stack_bytes = read_stack_bytes();
  static thread_local Index kept_;
  static inline std::atomic<Index> most_{1};
  static inline std::atomic<long long> until_{0};  // 0: no limit is known
};
thread_local Index Starting::kept_ = 0;

// Spins before a thread yields, in two places where the other threads are expected within microseconds: rank 0 at the
// end of a call, and trial barriers. More than kSpins in kernels/parallel.h, because no work of this thread waits for
// it.
constexpr int kSpinsAtEnd = 1000;

struct Call {
  std::vector<Team> teams;
  std::vector<TeamWork> works;
  Index size = 0;  // total number of threads
  int stop = 0;
  int cpu = -1;           // the CPU of rank 0
  Flag* trial = nullptr;  // one per thread, if the time of a barrier is unknown
  enum Verdict { kNone, kTogether, kAlone };
  std::atomic<Verdict> verdict{kNone};
  // Nanoseconds: the longest wait of any thread; the threads that did not wait are those that lost their cores
  std::atomic<long long> waited{0};
  std::atomic<long long> came{0};  // when the last thread started
  std::atomic<Index> finished{0};

  // Runs all works on one thread, the last work first, because a work reads what a later work in the list writes.
  void run_alone() {
    const InterruptCheck check = teams[0].interrupted;
    for (std::size_t i = works.size(); i-- > 0;) {
      teams[i].interrupted = check;
      teams[i].size = teams[i].row_groups = 1;
      teams[i].below = nullptr;
      Member member{&teams[i], 0};
      works[i].work(member);
    }
  }
  void run_as(Index rank) {
    if (rank != 0) step_aside(cpu), at_least(came, now_ns());
    if (trial && !passes_trial(rank)) {
      if (rank == 0) run_alone();
      return;
    }
    std::size_t i = 0;
    Index at = rank;
    while (at >= teams[i].size) at -= teams[i++].size;
    Member member{&teams[i], at};
    works[i].work(member);
    if (rank != 0) {
      at_least(waited, member.waited);
      finished.fetch_add(1, std::memory_order_release);
      return;
    }
    // OpenMP's own wait at the end of a region spins for milliseconds, perhaps on a core that another thread needs.
    const long long since = now_ns();
    for (int spins = 0; finished.load(std::memory_order_acquire) < size - 1; ++spins)
      if (spins >= kSpinsAtEnd) sched_yield();
    at_least(waited, member.waited + now_ns() - since);
  }
  // Passes a few barriers before the work; false: the call should run on one thread, because a thread lost its core.
  bool passes_trial(Index rank) {
    long long since = 0;
    Index count = 1;
    for (; count <= BarrierTime::kFirst + BarrierTime::kCount && verdict == kNone; ++count) {
      __atomic_store_n(&trial[rank].at, count, __ATOMIC_RELEASE);
      for (Index other = 0; other < size && verdict == kNone; ++other)
        for (int spins = 0; __atomic_load_n(&trial[other].at, __ATOMIC_ACQUIRE) < count && verdict == kNone; ++spins) {
          if (spins < kSpinsAtEnd) continue;
          sched_yield();
          if (since > 0 && now_ns() - since > BarrierTime::kPatience) verdict = kAlone;
        }
      if (rank == 0 && count == BarrierTime::kFirst) since = now_ns();
    }
    if (rank == 0) {
      const long long ns = now_ns() - since;
      if (verdict == kNone) verdict = ns > BarrierTime::kPatience ? kAlone : kTogether;
      if (verdict == kAlone) contention.found();
      else barrier_time.report(size, static_cast<double>(ns) / BarrierTime::kCount);
    }
    while (verdict == kNone) sched_yield();
    return verdict == kTogether;
  }
  static void at_least(std::atomic<long long>& most, long long ns) {
    for (long long seen = most; seen < ns && !most.compare_exchange_weak(seen, ns);) {
    }
  }
};

void run_region(Call& call) {
#if defined(_OPENMP)
  const int asked = static_cast<int>(call.size);
  if (!Starting::can_have(call.size - 1)) return call.run_alone();
#pragma omp parallel num_threads(asked)
  {
    // A nested or limited region may get fewer threads than it asked for.
    const int there = omp_get_num_threads();
    if (omp_get_thread_num() == 0 && omp_get_level() == 1) Starting::kept(there - 1);
    if (there == asked) call.run_as(omp_get_thread_num());
    else if (omp_get_thread_num() == 0) call.run_alone();
  }
#else
  call.run_alone();
#endif
}

void run_on_fresh_thread(Call& call) {
  const InterruptCheck check = std::exchange(call.teams[0].interrupted, nullptr);
  std::mutex mutex;
  std::condition_variable finished;
  bool done = false;
  std::thread fresh;
  try {
    fresh = std::thread([&] {
      run_region(call);
      const std::lock_guard<std::mutex> lock(mutex);
      done = true;
      finished.notify_one();
    });
  } catch (const std::system_error&) {  // no thread can be started
    call.teams[0].interrupted = check;
    return call.run_alone();
  }
  std::unique_lock<std::mutex> lock(mutex);
  while (!finished.wait_for(lock, std::chrono::milliseconds(20), [&] { return done; })) {
    lock.unlock();
    if (check && check(call.teams[0].interrupted_argument)) __atomic_store_n(&call.stop, 1, __ATOMIC_RELAXED);
    lock.lock();
  }
  lock.unlock();
  fresh.join();
}

}  // namespace

bool after_fork() { return forked; }
double barrier_slowness() { return barrier_time.slowness(); }

int num_threads() {
  if (local_threads > 0) return local_threads;
  if (const int n = process_threads.load(); n > 0) return n;
#if defined(_OPENMP)
  // From the environment, and from the affinity mask.
  const int wanted = omp_get_max_threads(), cores = omp_get_num_procs();
  return wanted < cores ? wanted : cores;
#else
  return 1;
#endif
}
Index ThreadLimit::most() {
  if (most_ == 0) most_ = Starting::limited(num_threads());
  return most_;
}
void set_num_threads(int n) { process_threads = n; }
void set_local_num_threads(int n) { local_threads = n; }
int local_num_threads() { return local_threads; }

const char* parallel_runtime() {
#if !defined(_OPENMP)
  return "none: built without OpenMP, everything runs on one thread";
#elif defined(__clang__)
  return "LLVM OpenMP";
#else
  return "GNU OpenMP";
#endif
}

bool run_teams(std::vector<TeamWork> works, InterruptCheck check, void* check_argument) {
  Call call;
  call.works = std::move(works);
  call.teams.resize(call.works.size());
  for (std::size_t i = 0; i < call.works.size(); ++i) {
    Team& team = call.teams[i];
    team.size = call.works[i].shape.size;
    team.row_groups = call.works[i].shape.row_groups;
    team.l2_bytes = static_cast<Index>(l2_bytes());
    team.stop = &call.stop;
    team.interrupted_argument = check_argument;
    call.size += team.size;
  }
  // Asking for more threads than cores is deliberate, so it does not count as contention.
  const bool judged = call.size > 1 && call.size <= cores();
  call.teams[0].interrupted = check;
  if (call.size <= 1 || (judged && contention.now())) {
    call.run_alone();
    return call.stop == 0;
  }
  std::vector<Flag> flags(static_cast<std::size_t>(4 * call.size));
  Flag* next = flags.data();
  for (std::size_t i = 0; i < call.teams.size(); ++i) {
    Team& team = call.teams[i];
    team.flags = next;
    team.barriers = next + team.size;
    team.progress = next + 2 * team.size;
    if (call.works[i].follows_next) team.below = &call.teams[i + 1];
    next += 3 * team.size;
  }
  if (judged && !forked && (contention.lately() || !barrier_time.known())) call.trial = next;
#if defined(__linux__)
  if (judged) call.cpu = sched_getcpu();
#endif
  const long long start = now_ns();
  if (forked) run_on_fresh_thread(call);
  else run_region(call);
  const long long end = now_ns(), silence = start - last_region.exchange(end);
  const long long woke = silence > kAwake ? std::max(0LL, call.came - start) : 0;
  // Works that do not follow each other may have different lengths: then waiting for the last one is no sign of
  // contention.
  if (judged && call.verdict != Call::kAlone && (call.teams.size() == 1 || call.works[0].follows_next))
    contention.report(call.size, end - start - woke, std::max(0LL, call.waited - woke));
  return call.stop == 0;
}

}  // namespace fusedrnn
