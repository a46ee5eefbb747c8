#include "server/exposure.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

ServerOptions At(const std::string& grpc, const std::string& metrics) {
  ServerOptions options;
  options.grpc_address = grpc;
  options.metrics_address = metrics;
  return options;
}

std::string Refusal(const ServerOptions& options) {
  const absl::Status status = CheckExposure(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  return std::string(status.message());
}

TEST(Exposure, OfLoopbackIsNone) {
  EXPECT_EQ(*CheckExposure(ServerOptions()), "");
  for (const char* address :
       {"127.0.0.1:0", "127.1.2.3:1", "[::1]:0", "localhost:1"}) {
    EXPECT_EQ(*CheckExposure(At(address, address)), "") << address;
  }
}

TEST(Exposure, OfAnyOtherAddressTakesTlsAndKeys) {
  for (const char* address :
       {"0.0.0.0:0", "[::]:0", "192.0.2.1:1", "[2001:db8::1]:1"}) {
    const ServerOptions options = At(address, "127.0.0.1:0");
    EXPECT_THAT(
        Refusal(options),
        AllOf(HasSubstr(std::string("--grpc-address ") + address),
              HasSubstr("give --tls-certificate, --tls-key, --keys, or"),
              HasSubstr("--insecure"), Not(HasSubstr("--metrics-address"))));
    EXPECT_THAT(Refusal(At("127.0.0.1:0", address)),
                AllOf(HasSubstr(std::string("--metrics-address ") + address),
                      Not(HasSubstr("--grpc-address"))));
  }
  ServerOptions options = At("0.0.0.0:0", "0.0.0.0:0");
  options.tls.certificate = "server.crt";
  EXPECT_THAT(Refusal(options), AllOf(HasSubstr("give --keys, or"),
                                      Not(HasSubstr("--tls-certificate"))));
  options.tls.certificate.clear();
  options.keys = "keys.json";
  EXPECT_THAT(Refusal(options),
              AllOf(HasSubstr("give --tls-certificate, --tls-key, or"),
                    Not(HasSubstr("--keys"))));
  options.tls.certificate = "server.crt";
  EXPECT_EQ(*CheckExposure(options), "");
}

TEST(Exposure, ThatIsMeantIsWarnedOf) {
  ServerOptions options = At("0.0.0.0:0", "127.0.0.1:0");
  options.insecure = true;
  EXPECT_THAT(*CheckExposure(options),
              AllOf(HasSubstr("--grpc-address 0.0.0.0:0 can be reached"),
                    HasSubstr("without TLS"), HasSubstr("without keys"),
                    Not(HasSubstr("--metrics-address"))));
  options.keys = "keys.json";
  EXPECT_THAT(*CheckExposure(options),
              AllOf(HasSubstr("without TLS"), Not(HasSubstr("without keys"))));
  options.tls.certificate = "server.crt";
  EXPECT_EQ(*CheckExposure(options), "");
  // Nothing is open there.
  options = At("127.0.0.1:0", "127.0.0.1:0");
  options.insecure = true;
  EXPECT_EQ(*CheckExposure(options), "");
}

// It could stand for anything by the time that somebody listens there.
TEST(Exposure, OfWhatStandsForNothingIsRefused) {
  EXPECT_THAT(Refusal(At("no host:1", "127.0.0.1:0")),
              AllOf(HasSubstr("--grpc-address no host:1 is no address: "),
                    HasSubstr("; give HOST:PORT")));
  ServerOptions options = At("127.0.0.1:0", "no host:1");
  options.insecure = true;
  EXPECT_THAT(Refusal(options), HasSubstr("--metrics-address no host:1 is no"));
}

}  // namespace
}  // namespace engram
