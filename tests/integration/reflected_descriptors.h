// What a server tells of itself by reflection, as a generic client asks for it.
#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <google/protobuf/descriptor_database.h>
#include <google/protobuf/dynamic_message.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/integration/generic_call.h"
#include "tests/integration/standard_services.pb.h"

namespace engram {

inline constexpr char kReflection[] =
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

// Descriptors as a generic client gets them: from the server.
class ReflectedDescriptors {
 public:
  explicit ReflectedDescriptors(const std::string& address,
                                const CallMetadata& metadata = {})
      : call_(address, kReflection, metadata), pool_(&database_) {}
  ~ReflectedDescriptors() {
    call_.WritesDone();
    testing::ReflectionResponse response;
    EXPECT_FALSE(call_.Read(&response));
    EXPECT_TRUE(call_.Finish().ok());
  }

  std::vector<std::string> Services() {
    testing::ReflectionRequest request;
    request.set_list_services("*");
    const testing::ReflectionResponse response = Ask(request);
    std::vector<std::string> names;
    for (const auto& service : response.list_services_response().service()) {
      names.push_back(service.name());
    }
    return names;
  }

  // nullptr if the server does not know it.
  const google::protobuf::ServiceDescriptor* FindService(
      const std::string& service) {
    testing::ReflectionRequest request;
    request.set_file_containing_symbol(service);
    AddFiles(request);
    return pool_.FindServiceByName(service);
  }
  const google::protobuf::MethodDescriptor* FindMethod(
      const std::string& service, const std::string& method) {
    const google::protobuf::ServiceDescriptor* found = FindService(service);
    return found == nullptr ? nullptr : found->FindMethodByName(method);
  }

  std::unique_ptr<google::protobuf::Message> New(
      const google::protobuf::Descriptor* type) {
    return std::unique_ptr<google::protobuf::Message>(
        factory_.GetPrototype(type)->New());
  }

 private:
  testing::ReflectionResponse Ask(const testing::ReflectionRequest& request) {
    testing::ReflectionResponse response;
    EXPECT_TRUE(call_.Write(request));
    EXPECT_TRUE(call_.Read(&response));
    return response;
  }

  // The files of an answer, and all that they import.
  void AddFiles(const testing::ReflectionRequest& request) {
    const testing::ReflectionResponse response = Ask(request);
    for (const std::string& bytes :
         response.file_descriptor_response().file_descriptor_proto()) {
      google::protobuf::FileDescriptorProto file;
      ASSERT_TRUE(file.ParseFromString(bytes));
      google::protobuf::FileDescriptorProto known;
      if (!database_.FindFileByName(file.name(), &known)) database_.Add(file);
    }
    for (bool complete = false; !complete;) {
      complete = true;
      std::vector<std::string> names;
      database_.FindAllFileNames(&names);
      for (const std::string& name : names) {
        google::protobuf::FileDescriptorProto file;
        ASSERT_TRUE(database_.FindFileByName(name, &file));
        for (const std::string& import : file.dependency()) {
          google::protobuf::FileDescriptorProto known;
          if (database_.FindFileByName(import, &known)) continue;
          testing::ReflectionRequest next;
          next.set_file_by_filename(import);
          AddFiles(next);
          ASSERT_TRUE(database_.FindFileByName(import, &known)) << import;
          complete = false;
        }
      }
    }
  }

  GenericCall call_;
  google::protobuf::SimpleDescriptorDatabase database_;
  google::protobuf::DescriptorPool pool_;
  google::protobuf::DynamicMessageFactory factory_;
};

}  // namespace engram
