// ServerOptions: every flag, every limit and every default, read and checked in
// one place.
//
// Each flag --some-name is also the environment variable ENGRAM_SOME_NAME; the
// command line wins.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/backend.h"
#include "tools/tls/tls_files.h"

namespace engram {

// Who may ask the server for its services and messages.
enum class ReflectionMode { kOn, kOff, kKeyed };

struct ServerOptions {
  // Name and folder. Empty: every folder of the zoo.
  std::vector<std::pair<std::string, std::string>> models;
  std::string zoo;

  BackendKind backend = BackendKind::kAuto;
  std::vector<int> devices;  // DeviceOptions; empty: all that there are
  bool deterministic = false;
  int64_t threads = 0;  // all models together; MakeThreadPool
  int64_t delivery_threads = 1;
  std::string grpc_address = "127.0.0.1:8001";
  std::string metrics_address = "127.0.0.1:8002";
  // Other machines may reach the ports without TLS or keys (exposure.h).
  bool insecure = false;
  // States that other weights made are imported.
  bool import_unchecked_weights = false;
  std::string keys;  // the name of their file; empty: everybody is let in
  ReflectionMode reflection = ReflectionMode::kOn;
  TlsFiles tls;  // names; without a certificate nothing is encrypted

  int64_t session_memory = int64_t{1} << 30;
  int64_t kv_memory = int64_t{256} << 20;
  int64_t device_memory = 0;  // DeviceOptions::memory
  int64_t pinned_memory = 0;  // likewise; 0: CompleteMemory() knows
  absl::Duration session_ttl = absl::Hours(24);
  absl::Duration max_session_ttl = absl::Hours(876'600);  // 100 years
  int64_t max_answer_bytes = int64_t{8} << 20;
  int64_t remembered_turns = 65536;
  int64_t max_sessions = 100000;
  int64_t max_checkpoints = 1000;
  int64_t max_departed = 10000;
  int64_t tenant_labels = 100;

  std::optional<WeightFormat> weights;  // nothing: as stored
  int64_t slots = 64;
  int64_t max_batch_tokens = 512;
  absl::Duration target_step_time = absl::Milliseconds(5);
  int64_t max_queue = 1024;
  int64_t request_memory = int64_t{512} << 20;
  absl::Duration max_queue_time = absl::Seconds(2);
  int64_t max_queue_bytes = int64_t{256} << 20;
  int64_t reply_memory = int64_t{256} << 20;
  absl::Duration drain_timeout = absl::Seconds(30);
  absl::Duration slow_reader_timeout = absl::Seconds(30);
  int64_t stream_tokens = 256;

  int64_t max_prompt_tokens = int64_t{1} << 20;
  int64_t max_generated_tokens = int64_t{1} << 20;
  int64_t max_score_tokens = int64_t{1} << 16;
  int64_t max_message_bytes = int64_t{16} << 20;
  int64_t max_streams = 1024;
  int64_t max_connections = 0;
  absl::Duration max_connection_idle = absl::Minutes(30);
  absl::Duration max_connection_age = absl::InfiniteDuration();
  absl::Duration max_connection_age_grace = absl::Minutes(5);
  int64_t max_logprobs = 20;
  int64_t max_stop_strings = 16;
  int64_t max_stop_string_bytes = 256;
  int64_t max_stop_token_ids = 256;
  int64_t max_logit_bias = 1024;
  int64_t max_labels = 32;
  int64_t max_page_size = 1000;
  int64_t max_tokenize_bytes = int64_t{1} << 20;
  int64_t max_detokenize_tokens = int64_t{1} << 18;
  int64_t max_score_alternatives = int64_t{1} << 18;
  int64_t max_inspections = 32;
  int64_t max_inspected_tokens = 4096;
  int64_t max_inspected_queries = 256;
  int64_t max_edits = 256;

  bool request_log = true;
  int64_t log_memory = int64_t{8} << 20;
};

// One flag, for --help, the environment and the documentation alike.
struct OptionFlag {
  std::string name;        // "session-memory"
  std::string value_name;  // "BYTES"
  std::string help;
  std::string default_text;
  bool repeatable = false;
  std::function<absl::Status(const std::string& value)> set;

  // Stands for "on" if no value follows.
  bool is_switch() const { return value_name == "on|off"; }
  std::string environment() const;  // "ENGRAM_SESSION_MEMORY"
};

// The flags that write into `options`, in the order of --help.
std::vector<OptionFlag> OptionFlags(ServerOptions* options);

// `arguments` without the program's name; `environment` returns nullptr for
// what is not set. INVALID_ARGUMENT names the flag, the value and what is
// expected. Repeatable flags are separated by commas in the environment.
absl::StatusOr<ServerOptions> ParseOptions(
    const std::vector<std::string>& arguments,
    const std::function<const char*(const char*)>& environment);

// Whether `environment` ("NAME=value") has no ENGRAM_ variable that neither a
// flag nor another program of Engram knows. INVALID_ARGUMENT names it.
absl::Status CheckVariables(const std::vector<std::string>& environment);

// The text of --help.
std::string HelpText();

}  // namespace engram
