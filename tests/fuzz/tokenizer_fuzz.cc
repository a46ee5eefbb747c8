// Any bytes as a tokenizer.json, and any bytes as a text for a good one: a
// Status or a result that holds its promises, never a crash.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/status.h"
#include "model/tokenizer.h"

namespace {

using engram::TextDecoder;
using engram::Tokenizer;

// Bytes of ASCII and of "é" in both forms, a merge, and added tokens with each
// flag.
std::string GoodFile() {
  std::string vocabulary = R"("Ġ":0,"Ċ":1,"Ã":2,"©":3,"Ì":4,"ģ":5)";
  int id = 6;
  for (char byte = '!'; byte <= '~'; ++byte) {
    const bool is_escaped = byte == '"' || byte == '\\';
    vocabulary += std::string(",\"") + (is_escaped ? "\\" : "") + byte +
                  "\":" + std::to_string(id++);
  }
  const auto added = [&id](const char* content, const char* flags) {
    return R"({"id":)" + std::to_string(id++) + R"(,"content":")" + content +
           "\"," + flags + "}";
  };
  std::string file = R"({"normalizer":{"type":"NFC"},"pre_tokenizer":{)"
                     R"("type":"ByteLevel","add_prefix_space":false},)";
  file += R"("model":{"type":"BPE","vocab":{)" + vocabulary + R"(,"ab":)" +
          std::to_string(id++) + R"(},"merges":["a b"]},"added_tokens":[)";
  file += added("<e>", R"("special":true,"normalized":false,"lstrip":false,)"
                       R"("rstrip":true,"single_word":false)") +
          ",";
  file += added("  ", R"("special":false,"normalized":true,"lstrip":true,)"
                      R"("rstrip":false,"single_word":false)") +
          ",";
  file += added("word", R"("special":false,"normalized":true,"lstrip":false,)"
                        R"("rstrip":false,"single_word":true)");
  return file + "]}";
}

const Tokenizer& GoodTokenizer() {
  static const Tokenizer* const tokenizer = [] {
    auto parsed = Tokenizer::Parse(GoodFile());
    ENGRAM_CHECK_OK(parsed.status());
    return std::move(parsed).value().release();
  }();
  return *tokenizer;
}

void TryFile(std::string_view file) {
  const auto tokenizer = Tokenizer::Parse(file);
  if (!tokenizer.ok()) return;
  const auto ids = (*tokenizer)->Encode("ab  a\u0301 <|endoftext|>", true);
  if (ids.ok()) (*tokenizer)->Decode(*ids);
}

void TryText(std::string_view text, bool parse_special_tokens) {
  const Tokenizer& tokenizer = GoodTokenizer();
  const auto ids = tokenizer.Encode(text, parse_special_tokens);
  if (!ids.ok()) return;
  TextDecoder decoder(&tokenizer);
  std::string decoded;
  for (int32_t id : *ids) {
    ENGRAM_CHECK(tokenizer.Knows(id));
    decoded += decoder.Append(id).text;
  }
  ENGRAM_CHECK(decoder.Flush().empty());
  ENGRAM_CHECK(decoded == tokenizer.Decode(*ids));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1,
                              size - 1);
  switch (data[0] % 3) {
    case 0:
      TryFile(rest);
      break;
    default:
      TryText(rest, data[0] % 3 == 1);
  }
  return 0;
}
