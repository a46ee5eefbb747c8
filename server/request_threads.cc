#include "server/request_threads.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {
namespace {

// What one client may have of so many.
size_t HalfOf(size_t all) { return std::max<size_t>(1, all / 2); }

}  // namespace

// Delegates, so that what was started is joined if the next cannot be.
RequestThreads::RequestThreads(const RequestThreadsLimits& limits)
    : RequestThreads(limits, NotStarted()) {
  threads_.reserve(static_cast<size_t>(limits.threads));
  for (int i = 0; i < limits.threads; ++i) {
    threads_.emplace_back([this] { RunQueued(); });
  }
}

RequestThreads::~RequestThreads() {
  Close("the server is stopping");
  {
    absl::MutexLock lock(&mutex_);
    is_ending_ = true;
    UpdateHasWork();
  }
  for (std::thread& thread : threads_) thread.join();
}

uint64_t RequestThreads::Run(const std::string& client, size_t bytes,
                             Work work) {
  absl::Status status;
  if (bytes > kShortBytes) {
    absl::MutexLock lock(&mutex_);
    status = closed_;
    if (status.ok()) status = CheckRoom(clients_[client], bytes);
    if (status.ok()) {
      Client& queue = clients_[client];
      const uint64_t ticket = ++last_ticket_;
      if (queue.waiting.empty()) turns_.push_back(client);
      queue.waiting.push_back({ticket, bytes, std::move(work)});
      queue.waiting_bytes += bytes;
      waiting_bytes_ += bytes;
      client_of_ticket_[ticket] = client;
      UpdateHasWork();
      return ticket;
    }
    ForgetIfIdle(client);
  }
  work(status);
  return 0;
}

absl::Status RequestThreads::CheckRoom(const Client& client,
                                       size_t bytes) const {
  const auto full = [](size_t value, size_t limit, const char* what,
                       const char* flag) {
    return absl::UnavailableError(absl::StrCat("the queue is full: ", value,
                                               what, limit, " (", flag,
                                               "); try again later"));
  };
  const size_t all = client_of_ticket_.size();
  if (all >= limits_.max_queue) {
    return full(all, limits_.max_queue,
                " long requests wait to be read, limit ", "--max-queue");
  }
  if (client.waiting.size() >= HalfOf(limits_.max_queue)) {
    return full(client.waiting.size(), HalfOf(limits_.max_queue),
                " long requests of this connection wait to be read, limit ",
                "half of --max-queue");
  }
  if (waiting_bytes_ + bytes > limits_.max_bytes) {
    return full(waiting_bytes_ + bytes, limits_.max_bytes,
                " bytes of requests would wait to be read, limit ",
                "--max-queue-bytes");
  }
  // One that is alone may be as long as all.
  if (client.waiting_bytes > 0 &&
      client.waiting_bytes + bytes > HalfOf(limits_.max_bytes)) {
    return full(client.waiting_bytes + bytes, HalfOf(limits_.max_bytes),
                " bytes of requests of this connection would wait to be read, "
                "limit ",
                "half of --max-queue-bytes");
  }
  return absl::OkStatus();
}

void RequestThreads::Withdraw(uint64_t ticket, const absl::Status& reason) {
  Entry entry;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = client_of_ticket_.find(ticket);
    if (found == client_of_ticket_.end()) return;
    const std::string client = std::move(found->second);
    client_of_ticket_.erase(found);
    Client& queue = clients_[client];
    const auto place = std::find_if(
        queue.waiting.begin(), queue.waiting.end(),
        [ticket](const Entry& one) { return one.ticket == ticket; });
    ENGRAM_CHECK(place != queue.waiting.end());
    entry = std::move(*place);
    queue.waiting.erase(place);
    queue.waiting_bytes -= entry.bytes;
    waiting_bytes_ -= entry.bytes;
    if (queue.waiting.empty()) {
      turns_.erase(std::find(turns_.begin(), turns_.end(), client));
    }
    ForgetIfIdle(client);
    UpdateHasWork();
  }
  entry.work(reason);
}

void RequestThreads::Close(const std::string& reason) {
  std::vector<Entry> dropped;
  absl::Status status;
  {
    absl::MutexLock lock(&mutex_);
    if (closed_.ok()) closed_ = absl::UnavailableError(reason);
    status = closed_;
    for (auto& [name, client] : clients_) {
      std::move(client.waiting.begin(), client.waiting.end(),
                std::back_inserter(dropped));
      client.waiting.clear();
      client.waiting_bytes = 0;
    }
    absl::erase_if(clients_,
                   [](const auto& one) { return one.second.running == 0; });
    turns_.clear();
    client_of_ticket_.clear();
    waiting_bytes_ = 0;
    UpdateHasWork();
  }
  for (Entry& entry : dropped) entry.work(status);
}

absl::Status RequestThreads::closed() const {
  absl::MutexLock lock(&mutex_);
  return closed_;
}

int RequestThreads::waiting() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(client_of_ticket_.size());
}

size_t RequestThreads::NextTurn() const {
  const size_t most = HalfOf(static_cast<size_t>(limits_.threads));
  size_t place = 0;
  while (place < turns_.size() &&
         clients_.find(turns_[place])->second.running >= most) {
    ++place;
  }
  return place;
}

RequestThreads::Entry RequestThreads::TakeNext(std::string* client) {
  const size_t place = NextTurn();
  *client = turns_[place];
  turns_.erase(turns_.begin() + static_cast<ptrdiff_t>(place));
  Client& queue = clients_[*client];
  Entry entry = std::move(queue.waiting.front());
  queue.waiting.pop_front();
  queue.waiting_bytes -= entry.bytes;
  waiting_bytes_ -= entry.bytes;
  client_of_ticket_.erase(entry.ticket);
  ++queue.running;
  if (!queue.waiting.empty()) turns_.push_back(*client);
  UpdateHasWork();
  return entry;
}

void RequestThreads::ForgetIfIdle(const std::string& client) {
  const auto found = clients_.find(client);
  if (found == clients_.end()) return;
  if (found->second.waiting.empty() && found->second.running == 0) {
    clients_.erase(found);
  }
}

void RequestThreads::RunQueued() {
  while (true) {
    std::string client;
    Entry entry;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&has_work_));
      if (is_ending_) return;
      entry = TakeNext(&client);
    }
    entry.work(absl::OkStatus());
    entry.work =
        nullptr;  // what it holds goes before the client may come again
    absl::MutexLock lock(&mutex_);
    --clients_[client].running;
    ForgetIfIdle(client);
    UpdateHasWork();
  }
}

void RequestWork::Start(const std::string& client, size_t bytes,
                        RequestThreads::Work work) {
  const uint64_t ticket = threads_->Run(client, bytes, std::move(work));
  absl::Status cancelled;
  {
    absl::MutexLock lock(&mutex_);
    ticket_ = ticket;
    cancelled = cancelled_;
  }
  if (!cancelled.ok()) threads_->Withdraw(ticket, cancelled);
}

void RequestWork::Cancel(const absl::Status& reason) {
  uint64_t ticket = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (!cancelled_.ok()) return;
    cancelled_ = reason;
    ticket = ticket_;
  }
  threads_->Withdraw(ticket, reason);
}

absl::Status RequestWork::MayGoOn() const {
  {
    absl::MutexLock lock(&mutex_);
    ENGRAM_RETURN_IF_ERROR(cancelled_);
  }
  return threads_->closed();
}

}  // namespace engram
