// RequestIdentity: what makes two requests the same request. A repeat of a turn
// is answered from its record only if it asks for the very same thing.
//
// A SHA-256 over what a request means: its fields, in one order and each with
// its length, so that no bytes of a client make two requests equal that differ.
// It has no key: it is the same in every process and on every machine, wherever
// a session and its records may go.
//
// Thread-safe: pure functions.
#pragma once

#include <array>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace engram {

struct Request;

using RequestIdentity = std::array<uint8_t, 32>;

// Of the answer that is asked for: what it starts from, prompt, sampling with
// its seed, stopping, keep_partial, logprobs. Not of what may differ in a
// repeat: request_id and session_id (by which its record is found),
// expected_version, received tokens, priority, deadline. A text and its token
// ids are equal.
RequestIdentity IdentityOf(const Request& request);

// The first 64 bits of SHA-256. Nobody finds two texts of equal digest for
// free, and who takes the pains deceives nobody but themselves.
uint64_t ShortDigest(absl::string_view text);

}  // namespace engram
