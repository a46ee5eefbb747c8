// A folder of a test's own, with the files that it writes.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "kernels/status.h"

namespace engram {

// A folder that is deleted with the object.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern =
        std::filesystem::temp_directory_path() / "engram_test_XXXXXX";
    ENGRAM_CHECK(mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }
  // Of a file or folder in it.
  std::string File(const std::string& name) const { return path_ + "/" + name; }

  void Write(const std::string& name, const std::string& content) const {
    // Some file systems write a file through to the disk when it replaces its
    // own content, which makes twenty thousand of them slow.
    std::filesystem::remove(File(name));
    std::ofstream file(File(name), std::ios::binary);
    file << content;
    ENGRAM_CHECK(file.good());
  }

 private:
  std::string path_;
};

}  // namespace engram
