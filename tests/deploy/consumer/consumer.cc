// Asks the server at argv[1] for a list of its models.
#include <iostream>

#include "clients/cpp/client.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  engram::client::Client client({.server = argv[1]});
  const auto models = client.ListModels();
  if (!models.ok()) {
    std::cerr << models.status() << "\n";
    return 1;
  }
  for (const auto& model : models->models()) std::cout << model.name() << "\n";
}
