// The whole server with a device that is not there, has too little memory, or
// fails by itself beside another: who waits is told, and the process ends.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/integration/child_process.h"
#include "tests/integration/moved_states.h"
#include "tests/support/folders.h"
#include "tests/support/test_server.h"

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;

class EmulatedDevice : public ::testing::Test {
 protected:
  ~EmulatedDevice() override {
    unsetenv("ENGRAM_EMULATION_CUBLASLT");
    unsetenv("ENGRAM_EMULATION_DEVICES");
    unsetenv("ENGRAM_EMULATION_FAILS_AT");
  }

  ServerProcess Serve(std::vector<std::string> more) {
    std::vector<std::string> arguments = {
        "--model", ZooModel(kInduction), "--slots",
        "2",       "--drain-timeout",    "500ms"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return ServerProcess(arguments, StandardError::kKept, RLIM_INFINITY,
                         ProgramFile("tests/emulated-server"));
  }
};

int Occurrences(const std::string& text, const std::string& words) {
  int count = 0;
  for (size_t at = text.find(words); at != std::string::npos;
       at = text.find(words, at + 1)) {
    ++count;
  }
  return count;
}

TEST_F(EmulatedDevice, IsRefusedWithReasonAndHintWhereThereIsNone) {
  setenv("ENGRAM_EMULATION_DEVICES", "0", /*overwrite=*/1);
  ServerProcess server = Serve({"--backend", "cuda"});
  EXPECT_EQ(server.grpc_address(), "");
  EXPECT_EQ(server.process().Wait(), 1);
  EXPECT_THAT(
      server.process().ErrorOutput(),
      AllOf(HasSubstr("the driver sees no device"),
            HasSubstr("CUDA_VISIBLE_DEVICES"), HasSubstr("--backend=cpu")));
}

TEST_F(EmulatedDevice, IsDoneWithoutWhereThereIsNoneAndThatIsSaidOnce) {
  setenv("ENGRAM_EMULATION_DEVICES", "0", /*overwrite=*/1);
  ServerProcess server =
      Serve({"--model",
             absl::StrCat("again=",
                          SourceFile(absl::StrCat("model/zoo/", kInduction)))});
  ASSERT_NE(server.grpc_address(), "");
  const TestClient client(server.grpc_address());
  EXPECT_TRUE(client.Generate(TokenTurn(kInduction, {1, 2}, 3)).status.ok());
  server.process().Signal(SIGTERM);
  EXPECT_EQ(server.process().Wait(), 0);
  EXPECT_EQ(
      Occurrences(server.process().ErrorOutput(), "the driver sees no device"),
      1);
}

TEST_F(EmulatedDevice, ThatHasTooLittleMemoryIsToldByArithmetic) {
  ServerProcess server =
      Serve({"--backend", "cuda", "--device-memory", "1MiB"});
  EXPECT_EQ(server.process().Wait(), 1);
  EXPECT_THAT(server.process().ErrorOutput(),
              AllOf(HasSubstr("of weights (--weights)"),
                    HasSubstr("of states in 2 slots (--slots)"),
                    HasSubstr("are left of 1048576 that --device-memory "
                              "allows")));
}

TEST_F(EmulatedDevice, TellsWhatModelsHaveOfItsMemory) {
  ServerProcess server =
      Serve({"--backend", "cuda", "--device-memory", "64MiB"});
  ASSERT_NE(server.grpc_address(), "") << server.process().ErrorOutput();
  const TestClient client(server.grpc_address());
  EXPECT_TRUE(client.Generate(TokenTurn(kInduction, {1, 2}, 3)).status.ok());
  const auto fetched = FetchMetrics(server.metrics_address());
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  const MetricsPage& page = *fetched;
  const std::string device = "device=\"0\"";
  EXPECT_EQ(page.Sum("device_memory_limit_bytes", {device}), 64 << 20);
  double sum = 0;
  for (const char* kind : {"weights", "states", "buffers"}) {
    const double bytes = page.Sum(
        "device_memory_bytes", {device, absl::StrCat("kind=\"", kind, "\"")});
    EXPECT_GT(bytes, 0) << kind;
    sum += bytes;
  }
  EXPECT_GT(page.Sum("device_memory_bytes", {device}), sum);
  EXPECT_EQ(page.Sum("device_memory_bytes", {"kind=\"key_values\""}), 0);
  const auto model = client.GetModel(kInduction);
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_EQ(model->devices_size(), 1);
  const v1::Device& told = model->devices(0);
  EXPECT_EQ(told.name(), "emulated device");
  EXPECT_EQ(told.memory_limit(), 64 << 20);
  EXPECT_EQ(told.memory_taken(), page.Sum("device_memory_bytes", {device}));
  EXPECT_EQ(told.memory_used(), sum);

  const double pinned = page.Sum("pinned_memory_bytes");
  EXPECT_EQ(pinned, page.Sum("pinned_memory_limit_bytes"));
  EXPECT_GT(page.Sum("pinned_memory_bytes", {"kind=\"steps\""}), 0);
  EXPECT_EQ(page.Sum("pinned_memory_bytes", {"kind=\"states\""}), 0);
  EXPECT_GE(page.Sum("pinned_memory_bytes", {"kind=\"unused\""}),
            2 * model->state_bytes())
      << "as much as all slots";
}

TEST_F(EmulatedDevice, TellsWhyItsProductsHaveNoLibrary) {
  setenv("ENGRAM_EMULATION_CUBLASLT", "0", /*overwrite=*/1);
  ServerProcess server = Serve({"--backend", "cuda"});
  ASSERT_NE(server.grpc_address(), "") << server.process().ErrorOutput();
  server.process().Signal(SIGTERM);
  EXPECT_EQ(server.process().Wait(), 0);
  EXPECT_THAT(server.process().ErrorOutput(),
              HasSubstr("\"product_library\":\"none: the emulated device has "
                        "no cublasLt"));
}

TEST_F(EmulatedDevice, ThatFailsBesideAnotherEndsStreamsAndProcess) {
  constexpr int kStreams = 4;  // as many as both have slots
  setenv("ENGRAM_EMULATION_DEVICES", "2", /*overwrite=*/1);
  setenv("ENGRAM_EMULATION_FAILS_AT", "3000", /*overwrite=*/1);
  ServerProcess server = Serve({"--backend", "cuda", "--devices", "0,1"});
  ASSERT_NE(server.grpc_address(), "") << server.process().ErrorOutput();
  const TestClient client(server.grpc_address());
  RunAtOnce(kStreams, [&client](int stream) {
    const Answer answer =
        client.Generate(TokenTurn(kInduction, {1, 2, stream}, 5000));
    EXPECT_TRUE(answer.in_order);
    EXPECT_FALSE(answer.completed.has_value());
    EXPECT_EQ(answer.status.code(), absl::StatusCode::kInternal)
        << answer.status;
  });
  EXPECT_EQ(server.process().Wait(), 1);
  // None of them can be used any more.
  EXPECT_THAT(server.process().ErrorOutput(),
              AllOf(HasSubstr("\"devices\":2"),
                    ContainsRegex("engine_failed.*\"device\":0"),
                    ContainsRegex("engine_failed.*\"device\":1")));
}

TEST_F(EmulatedDevice, GoesOnWithStatesOfACpuAndTheOtherWayRound) {
  ServerProcess device = Serve({"--backend", "cuda"});
  ASSERT_NE(device.grpc_address(), "") << device.process().ErrorOutput();
  const TestClient on_device(device.grpc_address());
  ServerOptions options = ZooOptions({kInduction});
  options.backend = BackendKind::kCpu;
  const TestServer cpu(options);
  const TestClient& on_cpu = cpu.client();

  const auto turn = [](const std::string& text, const std::string& session) {
    return OnSession(TextTurn(kInduction, text, 1), session);
  };
  ASSERT_TRUE(on_cpu.Generate(turn("3 11 0 => 7 5 12 2 9", "s")).status.ok());
  const auto there =
      Import(device.grpc_address(), HeaderFor("s"), Export(cpu.address(), "s"));
  ASSERT_TRUE(there.ok()) << there.status();
  EXPECT_EQ(on_device.Generate(turn("=>", "s")).text(), "7");
  const auto back = Import(cpu.address(), HeaderFor("back"),
                           Export(device.grpc_address(), "s"));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->session().version(), 2);
  EXPECT_EQ(on_cpu.Generate(turn("8 1 =>", "back")).text(), "7");
}

}  // namespace
}  // namespace engram
