#include "server/request_identity.h"

#include <openssl/evp.h>

#include <bit>
#include <concepts>
#include <memory>

#include "kernels/status.h"
#include "server/request.h"

namespace engram {
namespace {

// Takes values one after the other, each in a form of its own length, so that
// where one ends is never in doubt.
class Digest {
 public:
  Digest() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    ENGRAM_CHECK(context_ != nullptr &&
                 EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }

  void AddBytes(const void* bytes, size_t count) {
    ENGRAM_CHECK(EVP_DigestUpdate(context_.get(), bytes, count) == 1);
  }

  // Little-endian, eight bytes.
  template <std::integral Integer>
  void Add(Integer value) {
    uint8_t bytes[8];
    const auto bits = static_cast<uint64_t>(value);
    for (int i = 0; i < 8; ++i)
      bytes[i] = static_cast<uint8_t>(bits >> (8 * i));
    AddBytes(bytes, sizeof(bytes));
  }

  void Add(float value) {
    // Two zeros are one number.
    Add(std::bit_cast<uint32_t>(value == 0 ? 0.0f : value));
  }

  void Add(absl::string_view text) {
    Add(text.size());
    AddBytes(text.data(), text.size());
  }

  void Add(const std::vector<int32_t>& ids) {
    static_assert(std::endian::native == std::endian::little);
    Add(ids.size());
    AddBytes(ids.data(), ids.size() * sizeof(int32_t));
  }

  RequestIdentity Finish() {
    RequestIdentity digest;
    unsigned int size = 0;
    ENGRAM_CHECK(EVP_DigestFinal_ex(context_.get(), digest.data(), &size) == 1);
    ENGRAM_CHECK(size == digest.size());
    return digest;
  }

 private:
  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

void AddSampling(const SamplingParameters& sampling, Digest* digest) {
  digest->Add(sampling.temperature);
  digest->Add(sampling.top_k);
  digest->Add(sampling.top_p);
  digest->Add(sampling.min_p);
  digest->Add(sampling.repetition_penalty);
  digest->Add(sampling.presence_penalty);
  digest->Add(sampling.frequency_penalty);
  digest->Add(sampling.logit_bias.size());
  for (const auto& [id, bias] : sampling.logit_bias) {
    digest->Add(id);
    digest->Add(bias);
  }
  digest->Add(sampling.seed);
}

void AddStopping(const Stopping& stopping, Digest* digest) {
  digest->Add(stopping.max_tokens);
  digest->Add(stopping.stop.size());
  for (const std::string& stop : stopping.stop) {
    digest->Add(absl::string_view(stop));
  }
  digest->Add(stopping.stop_token_ids);
  digest->Add(stopping.ignore_eos);
}

}  // namespace

RequestIdentity IdentityOf(const Request& request) {
  Digest digest;
  // Another list of fields must have another name.
  digest.Add(absl::string_view("engram.v1 turn 2"));
  digest.Add(absl::string_view(request.from_checkpoint));
  digest.Add(request.prompt);
  AddSampling(request.sampling, &digest);
  AddStopping(request.stopping, &digest);
  digest.Add(request.keep_partial);
  digest.Add(request.logprobs);
  return digest.Finish();
}

uint64_t ShortDigest(absl::string_view text) {
  Digest digest;
  digest.AddBytes(text.data(), text.size());
  const RequestIdentity whole = digest.Finish();
  uint64_t first = 0;
  for (int i = 0; i < 8; ++i) first |= uint64_t{whole[i]} << (8 * i);
  return first;
}

}  // namespace engram
