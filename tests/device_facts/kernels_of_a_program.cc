#include "tests/device_facts/kernels_of_a_program.h"

#include <cxxabi.h>
#include <elf.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>

namespace engram {
namespace {

struct FatBinaryHeader {
  uint32_t magic;
  uint16_t version;
  uint16_t header_bytes;
  uint64_t bytes;
};
constexpr uint32_t kMagic = 0xba55ed50;

// The structure at an offset, if the file has all of it.
template <class T>
bool ReadAt(const std::string& file, uint64_t offset, T* value) {
  if (offset > file.size() || file.size() - offset < sizeof(T)) return false;
  std::memcpy(value, file.data() + offset, sizeof(T));
  return true;
}

// The section's bytes; empty if the file is no ELF file or has no such section.
std::string Section(const std::string& file, const std::string& name) {
  Elf64_Ehdr header;
  if (!ReadAt(file, 0, &header) ||
      std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
    return "";
  }
  const auto section = [&](int index, Elf64_Shdr* to) {
    return ReadAt(file, header.e_shoff + uint64_t{header.e_shentsize} * index,
                  to);
  };
  Elf64_Shdr names;
  if (!section(header.e_shstrndx, &names)) return "";
  for (int i = 0; i < header.e_shnum; ++i) {
    Elf64_Shdr one;
    if (!section(i, &one)) return "";
    const uint64_t at = names.sh_offset + one.sh_name;
    if (at >= file.size() || file.c_str() + at != name) continue;
    if (one.sh_offset > file.size()) return "";
    return file.substr(one.sh_offset, one.sh_size);
  }
  return "";
}

std::string Demangled(const char* name) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(
      abi::__cxa_demangle(name, nullptr, nullptr, &status), std::free);
  return status == 0 ? text.get() : name;
}

}  // namespace

std::vector<std::string> FatBinaries(const std::string& program) {
  std::ifstream stream(program, std::ios::binary);
  const std::string file{std::istreambuf_iterator<char>(stream), {}};
  const std::string section = Section(file, ".nv_fatbin");
  std::vector<std::string> found;
  // They begin at multiples of 8.
  for (uint64_t at = 0; at < section.size();) {
    FatBinaryHeader header;
    if (!ReadAt(section, at, &header)) break;
    if (header.magic != kMagic) {
      at += 8;
      continue;
    }
    const uint64_t bytes = header.header_bytes + header.bytes;
    found.push_back(section.substr(at, bytes));
    at += (bytes + 7) / 8 * 8;
  }
  return found;
}

cudaError_t LoadKernels(const std::string& fat_binary,
                        std::vector<LoadedKernel>* kernels) {
  cudaLibrary_t library = nullptr;
  cudaError_t error = cudaLibraryLoadData(&library, fat_binary.data(), nullptr,
                                          nullptr, 0, nullptr, nullptr, 0);
  if (error != cudaSuccess) return error;
  unsigned count = 0;
  error = cudaLibraryGetKernelCount(&count, library);
  // Some pieces hold none, and to be asked for none is an error.
  if (error != cudaSuccess || count == 0) return error;
  std::vector<cudaKernel_t> handles(count);
  error = cudaLibraryEnumerateKernels(handles.data(), count, library);
  for (unsigned i = 0; i < count && error == cudaSuccess; ++i) {
    const void* const function = handles[i];
    LoadedKernel kernel;
    const char* name = "";
    error = cudaFuncGetName(&name, function);
    if (error != cudaSuccess) return error;
    kernel.name = Demangled(name);
    error = cudaFuncGetAttributes(&kernel.attributes, function);
    if (error != cudaSuccess) return error;
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
        &kernel.blocks, function, kernel.attributes.maxThreadsPerBlock, 0);
    kernels->push_back(kernel);
  }
  return error;
}

}  // namespace engram
