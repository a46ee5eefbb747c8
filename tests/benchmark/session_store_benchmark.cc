// How long a bystander waits for the session store while others keep it busy,
// with many sessions in it, and what those sessions take of the process's
// memory beside what the store counts.
//
//     session_store_benchmark [SESSIONS [STATE_BYTES]]     100,000 and 8 MiB
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/clock.h"
#include "server/session_store.h"
#include "tests/support/named.h"

namespace engram {
namespace {

std::shared_ptr<const StateBlock> MakeBlock(size_t bytes) {
  return std::make_shared<const StateBlock>(*AllocateOrdinaryMemory(bytes));
}

constexpr int kLabels = 32;

std::string LongId(int i) {
  const std::string number = absl::StrCat(1000000 + i);
  return absl::StrCat(std::string(128 - number.size(), 'x'), number);
}

NewSession FullSession(int i) {
  NewSession session = {.name = Named(LongId(i))};
  for (int label = 0; label < kLabels; ++label) {
    session.labels[absl::StrCat(std::string(60, 'k'), 1000 + label)] =
        std::string(256, 'v');
  }
  return session;
}

// Runs `work` while another thread asks for one session again and again; prints
// how long it took to be answered.
void Measure(const char* what, const SessionStore& store,
             const std::function<void()>& work) {
  std::atomic<bool> done = false;
  std::vector<double> waits;
  std::thread bystander([&] {
    while (!done) {
      const absl::Time asked = RealClock()->Now();
      store.Get(Named("bystander")).status().IgnoreError();
      waits.push_back(absl::ToDoubleMicroseconds(RealClock()->Now() - asked));
    }
  });
  const absl::Time begin = RealClock()->Now();
  work();
  const absl::Duration took = RealClock()->Now() - begin;
  done = true;
  bystander.join();
  std::sort(waits.begin(), waits.end());
  const auto part = [&](double share) {
    return waits.empty() ? 0
                         : waits[static_cast<size_t>(
                               share * static_cast<double>(waits.size() - 1))];
  };
  std::printf(
      "%-44s %9.1f ms; bystander p50 %6.1f us, p99.9 %8.1f us, max %8.1f us\n",
      what, absl::ToDoubleMilliseconds(took), part(0.5), part(0.999), part(1));
}

// A turn that leaves a state of its own in slot 0.
void RunTurn(SessionStore* store, const std::string& id,
             const std::string& request_id) {
  Request request;
  request.session_id = id;
  request.request_id = request_id;
  request.prompt = {1};
  request.stopping.max_tokens = 1;
  auto begun = store->BeginTurn(0, request, nullptr);
  if (!begun.ok()) {
    std::printf("%s\n", begun.status().ToString().c_str());
    std::exit(1);
  }
  auto& turn = std::get<SessionStore::Turn>(*begun);
  CommittedTurns turns = turn.start;
  ++turns.version;
  ++turns.position;
  TurnRecord record;
  record.request_id = request_id;
  store->Commit(turn.session, turns, 0, std::move(record));
  store->ReleasedSlots(0);
}

void Run(int sessions, size_t state_bytes) {
  SessionLimits limits;
  limits.memory_bytes = size_t{1} << 40;
  limits.sessions = 1 << 30;
  SessionStore store(limits, RealClock());
  store.AddModel("one", {.state_bytes = state_bytes});
  store.AddModel("other", {.state_bytes = state_bytes});
  NewSession quiet = {.name = Named("bystander"), .model = 1};
  store.Create(std::move(quiet)).status().IgnoreError();

  const size_t heap = mallinfo2().uordblks;
  Measure("creating all, with the longest ids and labels", store, [&] {
    for (int i = 0; i < sessions; ++i) {
      store.Create(FullSession(i)).status().IgnoreError();
    }
  });
  const double grown = static_cast<double>(mallinfo2().uordblks - heap);
  const auto counted = static_cast<double>(store.Counts().ram_bytes);
  std::printf("heap grew by %.1f MiB, counted are %.1f MiB: ratio %.3f\n",
              grown / (1 << 20), counted / (1 << 20), grown / counted);

  Measure("100 pages of 1,000, all models", store, [&] {
    for (int i = 0; i < 100; ++i)
      store.List(nullptr, -1, LongId(i * 500), 1000);
  });
  Measure("1,000 pages of the model with one session", store, [&] {
    for (int i = 0; i < 1000; ++i) store.List(nullptr, 1, "", 1000);
  });
  RunTurn(&store, "source", "r");
  const SessionHandle source = *store.Find(Named("source"));
  const auto block = MakeBlock(state_bytes);
  store.KeepCopy(source, 0, 1, block);
  Measure("400 forks of one state", store, [&] {
    for (int i = 0; i < 400; ++i) {
      store
          .InstallFork(source, absl::StrCat("fork", i),
                       store.Locate(source)->turns, block)
          .status()
          .IgnoreError();
    }
  });
  Measure("1,000 turns", store, [&] {
    for (int i = 0; i < 1000; ++i) RunTurn(&store, "source", absl::StrCat(i));
  });
  Measure("deleting all", store, [&] {
    for (int i = 0; i < sessions; ++i) {
      store.Delete(Named(LongId(i))).IgnoreError();
    }
  });
}

}  // namespace
}  // namespace engram

int main(int argc, char** argv) {
  engram::Run(argc > 1 ? std::atoi(argv[1]) : 100000,
              argc > 2 ? std::strtoull(argv[2], nullptr, 10) : size_t{8} << 20);
}
