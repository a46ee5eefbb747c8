#include "server/options.h"

#include <algorithm>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "kernels/status.h"
#include "server/slot_number.h"
#include "tools/shell/closest_word.h"
#include "tools/shell/duration.h"
#include "tools/shell/environment.h"

namespace engram {
namespace {

absl::Status Expected(absl::string_view what, const std::string& value) {
  return absl::InvalidArgumentError(
      absl::StrCat("\"", value, "\" is not ", what));
}

absl::Status SetInteger(const std::string& value, int64_t least, int64_t most,
                        int64_t* target) {
  int64_t number = 0;
  if (!absl::SimpleAtoi(value, &number) || number < least || number > most) {
    return Expected(absl::StrCat("a number from ", least, " to ", most), value);
  }
  *target = number;
  return absl::OkStatus();
}

// "512", "64KiB", "512MiB", "4GiB".
absl::Status SetBytes(const std::string& value, int64_t most, int64_t* target) {
  const std::vector<std::pair<std::string, int64_t>> units = {
      {"KiB", int64_t{1} << 10},
      {"MiB", int64_t{1} << 20},
      {"GiB", int64_t{1} << 30},
      {"TiB", int64_t{1} << 40}};
  absl::string_view digits = value;
  int64_t unit = 1;
  for (const auto& [name, bytes] : units) {
    if (digits.size() > name.size() &&
        digits.substr(digits.size() - name.size()) == name) {
      digits.remove_suffix(name.size());
      unit = bytes;
      break;
    }
  }
  int64_t number = 0;
  if (!absl::SimpleAtoi(digits, &number) || number < 0 ||
      number > most / unit) {
    return Expected(absl::StrCat("a number of bytes up to ", most,
                                 ", such as 1048576, 64KiB, 512MiB, 1GiB"),
                    value);
  }
  *target = number * unit;
  return absl::OkStatus();
}

// A time that far from now is still a year of four digits, as
// google.protobuf.Timestamp has them.
constexpr absl::Duration kLongestLife = absl::Hours(8'766'000);

absl::Status SetDuration(const std::string& value, absl::Duration* target) {
  ENGRAM_ASSIGN_OR_RETURN(*target, ParseDuration(value));
  return absl::OkStatus();
}

// How long a session may live; `inf` only if `may_be_infinite`.
absl::Status SetLife(const std::string& value, bool may_be_infinite,
                     absl::Duration* target) {
  ENGRAM_ASSIGN_OR_RETURN(const absl::Duration life, ParseDuration(value));
  const bool endless = life == absl::InfiniteDuration();
  if (endless ? !may_be_infinite : life > kLongestLife) {
    return Expected(
        absl::StrCat("a duration up to ", absl::FormatDuration(kLongestLife),
                     may_be_infinite ? ", or inf" : ""),
        value);
  }
  *target = life;
  return absl::OkStatus();
}

absl::Status SetAddress(const std::string& value, std::string* target) {
  const size_t colon = value.rfind(':');
  int port = 0;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(value.substr(colon + 1), &port) || port < 0 ||
      port > 65535) {
    return Expected("HOST:PORT, such as 0.0.0.0:8001", value);
  }
  *target = value;
  return absl::OkStatus();
}

absl::Status SetBackend(const std::string& value, BackendKind* target) {
  const std::optional<BackendKind> kind = FindBackendKind(value);
  if (!kind.has_value()) return Expected(kBackendKindNames, value);
  *target = *kind;
  return absl::OkStatus();
}

// "all", or "0,2".
absl::Status SetDevices(const std::string& value, std::vector<int>* target) {
  constexpr int kMostDevices = 1024;
  target->clear();
  if (value == "all") return absl::OkStatus();
  for (const absl::string_view text : absl::StrSplit(value, ',')) {
    int index = 0;
    if (!absl::SimpleAtoi(text, &index) || index < 0 || index >= kMostDevices ||
        std::count(target->begin(), target->end(), index) > 0) {
      return Expected("all, or numbers of devices such as 0,1", value);
    }
    target->push_back(index);
  }
  return absl::OkStatus();
}

absl::Status SetWeights(const std::string& value,
                        std::optional<WeightFormat>* target) {
  *target = FindWeightFormat(value);
  if (target->has_value() || value == "stored") return absl::OkStatus();
  return Expected(absl::StrCat("stored, ", kWeightFormatNames), value);
}

absl::Status SetSwitch(const std::string& value, bool* target) {
  if (value != "on" && value != "off") return Expected("on or off", value);
  *target = value == "on";
  return absl::OkStatus();
}

absl::Status SetReflection(const std::string& value, ReflectionMode* target) {
  const std::pair<const char*, ReflectionMode> modes[] = {
      {"on", ReflectionMode::kOn},
      {"off", ReflectionMode::kOff},
      {"keyed", ReflectionMode::kKeyed}};
  for (const auto& [name, mode] : modes) {
    if (value != name) continue;
    *target = mode;
    return absl::OkStatus();
  }
  return Expected("on, off or keyed", value);
}

absl::Status AddModel(const std::string& value, ServerOptions* options) {
  const size_t equals = value.find('=');
  if (equals == std::string::npos || equals == 0 ||
      equals + 1 == value.size()) {
    return Expected("NAME=FOLDER", value);
  }
  const std::string name = value.substr(0, equals);
  for (const auto& [known, folder] : options->models) {
    if (known == name) {
      return absl::InvalidArgumentError(
          absl::StrCat("model \"", name, "\" is named twice"));
    }
  }
  options->models.emplace_back(name, value.substr(equals + 1));
  return absl::OkStatus();
}

std::string BytesText(int64_t bytes) {
  if (bytes == 0) return "0";
  if (bytes % (int64_t{1} << 30) == 0) return absl::StrCat(bytes >> 30, "GiB");
  if (bytes % (int64_t{1} << 20) == 0) return absl::StrCat(bytes >> 20, "MiB");
  return absl::StrCat(bytes);
}

// Makes flags with less repetition.
class FlagList {
 public:
  void Add(std::string name, std::string value_name, std::string default_text,
           std::string help,
           std::function<absl::Status(const std::string&)> set,
           bool repeatable = false) {
    flags_.push_back({std::move(name), std::move(value_name), std::move(help),
                      std::move(default_text), repeatable, std::move(set)});
  }
  template <typename Target>
  void Add(std::string name, std::string value_name, std::string default_text,
           Target* target,
           absl::Status (*set)(const std::string& value, Target* target),
           std::string help) {
    Add(std::move(name), std::move(value_name), std::move(default_text),
        std::move(help),
        [=](const std::string& value) { return set(value, target); });
  }
  void Integer(std::string name, int64_t least, int64_t most, int64_t* target,
               std::string help) {
    Add(std::move(name), "N", absl::StrCat(*target), std::move(help),
        [=](const std::string& value) {
          return SetInteger(value, least, most, target);
        });
  }
  void Bytes(std::string name, int64_t most, int64_t* target,
             std::string help) {
    Add(std::move(name), "BYTES", BytesText(*target), std::move(help),
        [=](const std::string& value) {
          return SetBytes(value, most, target);
        });
  }
  void Switch(std::string name, bool* target, std::string help) {
    Add(std::move(name), "on|off", *target ? "on" : "off", target, SetSwitch,
        std::move(help));
  }
  void Duration(std::string name, absl::Duration* target, std::string help) {
    Add(std::move(name), "DURATION", absl::FormatDuration(*target), target,
        SetDuration, std::move(help));
  }
  void Life(std::string name, bool may_be_infinite, absl::Duration* target,
            std::string help) {
    Add(std::move(name), "DURATION", absl::FormatDuration(*target),
        std::move(help), [=](const std::string& value) {
          return SetLife(value, may_be_infinite, target);
        });
  }
  void File(std::string name, std::string* target, std::string help) {
    Add(std::move(name), "FILE", "none", std::move(help),
        [=](const std::string& value) {
          if (value.empty()) return Expected("the name of a file", value);
          *target = value;
          return absl::OkStatus();
        });
  }
  void Address(std::string name, std::string* target, std::string help) {
    Add(std::move(name), "HOST:PORT", *target, target, SetAddress,
        std::move(help));
  }
  std::vector<OptionFlag> Take() { return std::move(flags_); }

 private:
  std::vector<OptionFlag> flags_;
};

void AddTls(FlagList* list, ServerOptions* options) {
  list->File("tls-certificate", &options->tls.certificate,
             "Encrypt both ports by TLS (1.2 or newer) and show this "
             "certificate to clients: PEM, followed by those that lead to its "
             "authority. This file and the next two are read again when they "
             "change; what is damaged or has expired then changes nothing, but "
             "is logged and counted in engram_tls_reload_failures_total.");
  list->File("tls-key", &options->tls.key,
             "The key of that certificate: PEM, without a passphrase.");
  list->File("tls-client-ca", &options->tls.authorities,
             "Serve only clients that have a certificate of one of these "
             "authorities (PEM), on both ports.");
}

void AddKeys(FlagList* list, ServerOptions* options) {
  list->File(
      "keys", &options->keys,
      "Serve only who shows a key of this file, sent as metadata "
      "authorization: Bearer KEY; a page of metrics, too, if its port is "
      "not on loopback. --make-key makes the entries of "
      "{\"keys\": [...]}, which have only the SHA-256 of a key; "
      "\"certificate\" in its place is a name in a client's certificate. "
      "Roles are generate, sessions, inspect, metrics, and admin: all of "
      "them but metrics. A key of tenant \"*\" acts for the tenant that "
      "the metadata engram-tenant name. The file is read again when it "
      "changes; what is wrong then changes nothing, but is logged and "
      "counted in engram_keys_reload_failures_total.");
  list->Add("reflection", "on|off|keyed", "on", &options->reflection,
            SetReflection,
            "Whether the server tells its methods and messages to tools such "
            "as grpcurl; keyed: to those with a key.");
  list->Integer("tenant-labels", 0, 1 << 20, &options->tenant_labels,
                "Tenants that metrics name; all others together are other.");
}

// And who may use them.
void AddPorts(FlagList* list, ServerOptions* options) {
  list->Address("grpc-address", &options->grpc_address,
                "Where gRPC is served; port 0 picks a free one.");
  list->Address("metrics-address", &options->metrics_address,
                "Where Prometheus metrics are served, at /metrics.");
  AddTls(list, options);
  AddKeys(list, options);
  list->Switch(
      "insecure", &options->insecure,
      "Start on an address that is not loopback without TLS or without "
      "keys: whoever reaches it may do everything. Else that is "
      "refused.");
}

void AddServing(FlagList* list, ServerOptions* options) {
  list->Add(
      "model", "NAME=FOLDER", "the zoo",
      "Serve the model in FOLDER (config.json, safetensors, tokenizer.json) as "
      "NAME; repeatable.",
      [=](const std::string& value) { return AddModel(value, options); },
      /*repeatable=*/true);
  list->Add("zoo", "FOLDER", "model/zoo of the source, /usr/share/engram/zoo",
            "Where the models are that are served if no --model is given.",
            [=](const std::string& value) {
              options->zoo = value;
              return absl::OkStatus();
            });
  list->Add("backend", "auto|cpu|cuda", "auto", &options->backend, SetBackend,
            "Where models run; auto takes CUDA if a device answers.");
  list->Add("devices", "all|N,N,...", "all", &options->devices, SetDevices,
            "Which of CUDA's devices run every model, by number; each has its "
            "weights, slots and steps, and sessions go to the one with most "
            "free slots. Only those that CUDA_VISIBLE_DEVICES leaves are "
            "there.");
  list->Switch(
      "deterministic", &options->deterministic,
      "Every way to cut a text into calls gives the same bits on CUDA, as all "
      "models do on a CPU and all but Mamba-2 anywhere. Else Mamba-2 reads "
      "prompts by chunks of 64 tokens, which change no bit where calls are cut "
      "between chunks; on, it reads them token by token, slower.");
  list->Integer("threads", 0, 1024, &options->threads,
                "CPU threads that compute, shared by all models; 0: as many as "
                "the affinity mask and the control group's quota allow.");
  list->Integer("delivery-threads", 0, 1024, &options->delivery_threads,
                "Threads that turn tokens into text and give them to clients, "
                "while models run; 0: models wait for it.");
  AddPorts(list, options);
  list->Duration("drain-timeout", &options->drain_timeout,
                 "After SIGTERM, how long requests may run and their answers "
                 "be read; the last quarter (5 s at most) is for reading.");
  list->Switch("request-log", &options->request_log,
               "One line of JSON per request on standard error.");
  list->Bytes("log-memory", int64_t{1} << 50, &options->log_memory,
              "Log lines that wait for a slow reader of standard error; what "
              "does not fit is dropped and counted.");
}

void AddCapacity(FlagList* list, ServerOptions* options) {
  constexpr int64_t kMany = std::numeric_limits<int32_t>::max();
  list->Integer("slots", 1, kMostSlots, &options->slots,
                "States on a device, per model: requests that run there at "
                "once.");
  list->Add(
      "weights", "stored|f32|bf16|f16|int8|int4", "stored", &options->weights,
      SetWeights,
      "How matrices are kept: as the file stores them, or in this format. "
      "Formats of 16 bits take half the memory of f32, int8 little more than a "
      "quarter, int4 a sixth, and decode faster; sums are float32 in any case. "
      "int8 has a scale for each 64 values, and leaves a Mamba's dt_proj as "
      "stored. int4 has a scale and a minimum for each 32 values, keeps "
      "embedding and head in int8, and is for a CPU only. A folder that "
      "--quantize made is in its own format, and in no other.");
  list->Integer("max-batch-tokens", 1, 1 << 20, &options->max_batch_tokens,
                "Tokens of one step at most, per model and device.");
  list->Duration("target-step-time", &options->target_step_time,
                 "How long a step that reads prompts may take while streams "
                 "run, as measured: each stream gets a token in it. inf: "
                 "always --max-batch-tokens.");
  list->Integer("max-queue", 1, 1 << 20, &options->max_queue,
                "Requests that wait for a slot, per model and device.");
  list->Bytes("request-memory", int64_t{1} << 50, &options->request_memory,
              "What requests that wait or run may take, per model: their "
              "prompts above all, 8 bytes a token.");
  list->Duration("max-queue-time", &options->max_queue_time,
                 "How long a request may wait: one that would wait longer is "
                 "refused at once and told when to come again. Where requests "
                 "wait all the time, a sixteenth of it. inf: no limit.");
  list->Bytes("max-queue-bytes", int64_t{1} << 50, &options->max_queue_bytes,
              "Long messages that wait to be read; one connection: half.");
  list->Bytes("reply-memory", int64_t{1} << 50, &options->reply_memory,
              "Answers of Score, Tokenize and others that come in one piece, "
              "and states that are exported, until they are read; one "
              "connection: half.");
  list->Bytes(
      "session-memory", int64_t{1} << 50, &options->session_memory,
      "RAM for states of sessions that hold no slot, and for all that "
      "is kept beside states: labels, ids, answers for repeats. Checkpoints "
      "may take half of it.");
  list->Bytes("max-answer-bytes", int64_t{1} << 40, &options->max_answer_bytes,
              "A turn's answer that is kept for a repeat; of a longer one only "
              "the request_id is.");
  list->Integer("remembered-turns", 1, kMany, &options->remembered_turns,
                "Turns of a session whose request_ids are remembered, 8 bytes "
                "each.");
  list->Bytes("kv-memory", int64_t{1} << 50, &options->kv_memory,
              "Memory of each device for keys and values, per model that has "
              "attention layers.");
  list->Bytes(
      "device-memory", int64_t{1} << 50, &options->device_memory,
      "What all models together may take of a device's memory: weights, "
      "states, buffers, keys and values. They take what they need and no more, "
      "all at start; what they need is set by --slots, --weights, "
      "--max-batch-tokens and --kv-memory. 0: what is free at start but "
      "1536MiB.");
  list->Bytes(
      "pinned-memory", int64_t{1} << 50, &options->pinned_memory,
      "What all models together may pin of the host's memory for devices of "
      "CUDA's: for what steps send and get back, and for states in RAM, which "
      "have ordinary memory beyond it and are then copied more slowly. It is "
      "taken at start, all of it. 0: what steps need, and for states as much "
      "as all slots hold, but not more than --session-memory.");
  list->Life("session-ttl", /*may_be_infinite=*/true, &options->session_ttl,
             "Idle time after which a session is forgotten.");
  list->Life("max-session-ttl", /*may_be_infinite=*/false,
             &options->max_session_ttl,
             "Longest time_to_live that a client may give a session.");
  list->Integer("max-sessions", 1, kMany, &options->max_sessions,
                "Sessions in all; the one used least recently leaves first.");
  list->Integer("max-checkpoints", 1, kMany, &options->max_checkpoints,
                "Checkpoints in all; where there are keys, a tenant has its "
                "part of them by weight.");
  list->Switch("import-unchecked-weights", &options->import_unchecked_weights,
               "Import a state though other weights made it. It must fit the "
               "model all the same; what is made of it nobody has promised.");
  list->Integer("max-departed", 1, kMany, &options->max_departed,
                "Ids of evicted and expired sessions that are remembered.");
  list->Integer("stream-tokens", 1, 1 << 20, &options->stream_tokens,
                "Tokens that a slow reader may be behind before it is paused.");
  list->Duration(
      "slow-reader-timeout", &options->slow_reader_timeout,
      "How long a reader may be paused, an answer unread, or the next part of "
      "an imported state not sent, before the request ends.");
}

void AddLimits(FlagList* list, ServerOptions* options) {
  constexpr int64_t kMany = std::numeric_limits<int32_t>::max();
  list->Integer("max-prompt-tokens", 1, kMany, &options->max_prompt_tokens,
                "Prompt tokens of a request.");
  list->Integer("max-generated-tokens", 1, kMany,
                &options->max_generated_tokens, "max_tokens of a request.");
  list->Integer("max-score-tokens", 1, kMany, &options->max_score_tokens,
                "Tokens of a text to score.");
  list->Integer("max-score-alternatives", 0, kMany,
                &options->max_score_alternatives,
                "Alternatives of all tokens of a text to score.");
  list->Integer("max-inspections", 1, 1 << 20, &options->max_inspections,
                "Inspections that wait, per model and device; of one tenant "
                "half.");
  list->Integer(
      "max-inspected-tokens", 0, kMany, &options->max_inspected_tokens,
      "Tokens of a prompt that Inspection.ReadOut, Attribute and Ablate feed, "
      "and of each answer of Ablate.");
  list->Integer(
      "max-inspected-queries", 1, 1 << 20, &options->max_inspected_queries,
      "Tokens that Inspection.ReadOut is asked about at once, and that "
      "Inspection.Attribute compares with.");
  list->Integer("max-edits", 1, 1 << 20, &options->max_edits,
                "Edits of layers in one Inspection.Ablate.");
  list->Bytes("max-tokenize-bytes", kMany, &options->max_tokenize_bytes,
              "A text to tokenise without running it.");
  list->Integer("max-detokenize-tokens", 1, kMany,
                &options->max_detokenize_tokens,
                "Token ids to turn into text.");
  // gRPC counts the bytes of a message in an int.
  list->Bytes("max-message-bytes", kMany, &options->max_message_bytes,
              "A gRPC message from a client.");
  list->Integer("max-streams", 1, 1 << 20, &options->max_streams,
                "Calls at a time on one connection.");
  list->Integer("max-connections", 0, 1 << 20, &options->max_connections,
                "Connections at a time; at the limit the one that was longest "
                "without a call makes room for a new one. 0: as many as "
                "descriptors allow, up to 4096.");
  list->Duration("max-connection-idle", &options->max_connection_idle,
                 "How long a connection may be without a call.");
  list->Duration("max-connection-age", &options->max_connection_age,
                 "After this time a client is asked to connect anew, so that "
                 "it may find another replica. One that is far behind in "
                 "reading its last answer may lose the end of it.");
  list->Duration("max-connection-age-grace", &options->max_connection_age_grace,
                 "How long its calls may then still go on.");
  list->Integer("max-logprobs", 0, 1000, &options->max_logprobs,
                "Alternatives per token.");
  list->Integer("max-stop-strings", 0, 1000, &options->max_stop_strings,
                "Stop strings of a request.");
  list->Integer("max-stop-string-bytes", 1, 1 << 16,
                &options->max_stop_string_bytes, "Length of a stop string.");
  list->Integer("max-stop-token-ids", 0, 1 << 20, &options->max_stop_token_ids,
                "Stop tokens of a request.");
  list->Integer("max-logit-bias", 0, 1 << 20, &options->max_logit_bias,
                "Entries of logit_bias of a request.");
  list->Integer("max-labels", 0, 1000, &options->max_labels,
                "Labels of a session.");
  list->Integer("max-page-size", 1, 1 << 20, &options->max_page_size,
                "Sessions in one answer of Sessions.List.");
}

absl::Status Apply(const OptionFlag& flag, const std::string& spelled,
                   const std::string& value) {
  const absl::Status status = flag.set(value);
  if (status.ok()) return status;
  return absl::InvalidArgumentError(
      absl::StrCat(spelled, ": ", status.message()));
}

absl::Status ApplyEnvironment(
    const std::vector<OptionFlag>& flags,
    const std::function<const char*(const char*)>& environment) {
  for (const OptionFlag& flag : flags) {
    const char* value = environment(flag.environment().c_str());
    if (value == nullptr) continue;
    std::vector<std::string> values = {value};
    if (flag.repeatable) values = absl::StrSplit(value, ',', absl::SkipEmpty());
    for (const std::string& one : values) {
      ENGRAM_RETURN_IF_ERROR(Apply(flag, flag.environment(), one));
    }
  }
  return absl::OkStatus();
}

absl::Status UnknownArgument(const std::string& argument,
                             const std::vector<OptionFlag>& flags) {
  std::vector<std::string> names;
  for (const OptionFlag& flag : flags) names.push_back("--" + flag.name);
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown argument \"", argument, "\"",
      DidYouMean(absl::string_view(argument).substr(0, argument.find('=')),
                 names),
      "; --help lists the flags"));
}

absl::Status ApplyArguments(const std::vector<std::string>& arguments,
                            const std::vector<OptionFlag>& flags,
                            ServerOptions* options) {
  bool models_from_environment = !options->models.empty();
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const size_t equals = argument.find('=');
    const std::string spelled = argument.substr(0, equals);
    auto flag = std::find_if(flags.begin(), flags.end(), [&](const auto& one) {
      return "--" + one.name == spelled;
    });
    if (flag == flags.end()) {
      return UnknownArgument(argument, flags);
    }
    std::string value;
    if (equals != std::string::npos) {
      value = argument.substr(equals + 1);
    } else if (flag->is_switch() &&
               (i + 1 == arguments.size() ||
                absl::StartsWith(arguments[i + 1], "--"))) {
      value = "on";
    } else if (++i < arguments.size()) {
      value = arguments[i];
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat(spelled, " needs a value: ", flag->value_name));
    }
    if (flag->name == "model" && models_from_environment) {
      options->models.clear();
      models_from_environment = false;
    }
    ENGRAM_RETURN_IF_ERROR(Apply(*flag, spelled, value));
  }
  return absl::OkStatus();
}

}  // namespace

std::string OptionFlag::environment() const {
  return "ENGRAM_" +
         absl::AsciiStrToUpper(absl::StrReplaceAll(name, {{"-", "_"}}));
}

std::vector<OptionFlag> OptionFlags(ServerOptions* options) {
  FlagList list;
  AddServing(&list, options);
  AddCapacity(&list, options);
  AddLimits(&list, options);
  return list.Take();
}

absl::StatusOr<ServerOptions> ParseOptions(
    const std::vector<std::string>& arguments,
    const std::function<const char*(const char*)>& environment) {
  ServerOptions options;
  const std::vector<OptionFlag> flags = OptionFlags(&options);
  ENGRAM_RETURN_IF_ERROR(ApplyEnvironment(flags, environment));
  ENGRAM_RETURN_IF_ERROR(ApplyArguments(arguments, flags, &options));
  return options;
}

absl::Status CheckVariables(const std::vector<std::string>& environment) {
  ServerOptions options;
  std::vector<std::string> known;
  for (const OptionFlag& flag : OptionFlags(&options)) {
    known.push_back(flag.environment());
  }
  return CheckEnvironment(environment, known);
}

std::string HelpText() {
  ServerOptions options;
  std::string text =
      "engram-server: serves state-space language models over gRPC and keeps "
      "their sessions.\n\n"
      "  engram-server                                 the models of the zoo\n"
      "  engram-server --model mine=/path/to/folder    a model of your own\n"
      "  engram-server --grpc-address 0.0.0.0:8001 --keys keys.json \\\n"
      "    --tls-certificate server.crt --tls-key server.key\n"
      "                                                for other machines\n"
      "  engram-server --make-key robot --tenant acme --roles "
      "generate,sessions --expires 2027-01-31T00:00:00Z\n"
      "                                                a key and its entry for "
      "--keys\n"
      "  engram-server --quantize /path/to/folder --into /path/to/new "
      "--weights int8\n"
      "                                                a folder that takes "
      "less "
      "and loads at once\n"
      "\n"
      "Flags, each also an environment variable (--max-queue is "
      "ENGRAM_MAX_QUEUE).\nA DURATION without a unit counts seconds.\n\n";
  for (const OptionFlag& flag : OptionFlags(&options)) {
    absl::StrAppend(&text, "  --", flag.name, " ", flag.value_name, "\n      ",
                    flag.help, " Default: ", flag.default_text, ".\n");
  }
  absl::StrAppend(&text,
                  "\nOnce ready it prints: listening grpc=HOST:PORT "
                  "metrics=HOST:PORT\nSIGTERM and SIGINT drain it; the exit "
                  "code is then 0.\n");
  return text;
}

}  // namespace engram
