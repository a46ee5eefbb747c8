// Quoted: a string from outside (a client, a file, a command line) as a message
// to people may carry it.
//
// Thread-safe: pure functions.
#pragma once

#include <string>
#include <string_view>

namespace engram {

// In quotes, and of a long one only the first 64 bytes and its length, so that
// nobody is sent back what they sent: "aaaa..." (10000000 bytes). What is no
// UTF-8 or no visible character, quotes and backslashes are escaped.
std::string Quoted(std::string_view foreign);

// The same cut, without quotes and escapes: for a field of the log.
std::string Shortened(std::string_view foreign);

}  // namespace engram
