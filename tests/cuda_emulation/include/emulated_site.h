// Site: where in a kernel's source something is asked for. What
// std::source_location is, which not every compiler of ours has.
#pragma once

namespace engram::emulation {

class Site {
 public:
  static constexpr Site current(const char* file_name = __builtin_FILE(),
                                unsigned line = __builtin_LINE()) {
    Site site;
    site.file_name_ = file_name;
    site.line_ = line;
    return site;
  }

  constexpr const char* file_name() const { return file_name_; }
  constexpr unsigned line() const { return line_; }

 private:
  const char* file_name_ = "";
  unsigned line_ = 0;
};

}  // namespace engram::emulation
