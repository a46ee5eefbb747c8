// The client library in one page: two turns on a session.
//
//   engram-example [HOST:PORT]

#include <iostream>

#include "clients/cpp/client.h"

int main(int argc, char** argv) {
  engram::client::ClientOptions options;
  if (argc > 1) options.server = argv[1];
  engram::client::Client client(options);

  // The second turn reads only its own prompt: the session remembers the rest.
  for (const char* prompt : {"And God said", " And the people answered"}) {
    engram::v1::GenerateRequest request;
    request.set_model("mamba-english");
    request.set_session_id("example");
    request.set_text(prompt);
    request.mutable_sampling()->set_temperature(0.7);
    request.mutable_stopping()->set_max_tokens(40);
    const absl::Status status = client.Generate(
        request, [](const engram::v1::GenerateResponse& response) {
          std::cout << response.token().text() << response.completed().text()
                    << std::flush;
        });
    if (!status.ok()) {
      std::cerr << status << "\n";
      return 1;
    }
    std::cout << "\n";
  }
  return std::cout.flush() ? 0 : 1;
}
