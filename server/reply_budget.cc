#include "server/reply_budget.h"

#include "absl/strings/str_cat.h"
#include "kernels/status.h"

namespace engram {

int64_t ReplyBudget::used() const {
  absl::MutexLock lock(&mutex_);
  return used_;
}

absl::Status ReplyBudget::Change(const std::string& client, int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  int64_t& used_by_client = used_by_[client];
  const int64_t most = bytes_ / 2;
  absl::Status status;
  if (bytes > 0 && used_by_client + bytes > most) {
    status = absl::ResourceExhaustedError(absl::StrCat(
        "the answer may take ", bytes,
        " bytes, and answers that this "
        "connection has not read take ",
        used_by_client, ", limit ", most,
        " (half of --reply-memory); ask for less, or read them first"));
  } else if (bytes > 0 && used_ + bytes > bytes_) {
    status = absl::ResourceExhaustedError(absl::StrCat(
        "the answer may take ", bytes,
        " bytes, and answers that clients have "
        "not read take ",
        used_, ", limit ", bytes_, " (--reply-memory); try again later"));
  } else {
    used_ += bytes;
    used_by_client += bytes;
  }
  if (used_by_client == 0) used_by_.erase(client);
  return status;
}

absl::Status ReplyReservation::Resize(int64_t bytes) {
  if (bytes == taken_) return absl::OkStatus();
  ENGRAM_RETURN_IF_ERROR(budget_->Change(client_, bytes - taken_));
  taken_ = bytes;
  return absl::OkStatus();
}

}  // namespace engram
