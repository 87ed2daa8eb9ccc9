// Reader and writer of safetensors, against files made by the reference library and a table of hostile
// headers.
#include "models/safetensors.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <thread>

#include "models/file_io.h"

namespace moebius {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDtypes = "tests/golden/safetensors_dtypes.safetensors";
constexpr const char* kShapes = "tests/golden/safetensors_shapes.safetensors";

class FilesTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "moebius-files-XXXXXX";
    dir_ = mkdtemp(pattern.data());
  }
  void TearDown() override { fs::remove_all(dir_); }
  std::string path(const std::string& name) const { return dir_ + "/" + name; }
  std::string content(const std::string& name) const {
    auto text = read_text_file(path(name), 1 << 30);
    EXPECT_TRUE(text.ok()) << text.status().message();
    return text.ok() ? *text : "";
  }
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& entry : fs::directory_iterator(dir_)) all.push_back(entry.path().filename());
    return all;
  }
  std::string dir_;
};
using SafetensorsFiles = FilesTest;
using TextFiles = FilesTest;

std::string framed(const std::string& header, const std::string& data = "") {
  std::string bytes;
  for (int shift = 0; shift < 64; shift += 8) bytes += static_cast<char>(header.size() >> shift & 0xFF);
  return bytes + header + data;
}

std::string hex(const void* data, int64_t bytes) {
  std::string text;
  for (int64_t i = 0; i < bytes; ++i)
    text += fmt::format("{:02x}", static_cast<const unsigned char*>(data)[i]);
  return text;
}

const TensorEntry& tensor_of(const SafetensorsFile& file, const std::string& name) {
  for (const TensorEntry& tensor : file.tensors()) {
    if (tensor.name == name) return tensor;
  }
  ADD_FAILURE() << "no tensor " << name;
  static const TensorEntry none;
  return none;
}

// The last element of each row 0 1 2 / 3 4 5 is 5 (1 for BOOL), here as its little-endian bytes.
TEST(Safetensors, ReadsEveryTypeOfTheReferenceLibrary) {
  const std::vector<std::tuple<DType, const char*, const char*>> expected = {
      {DType::kF64, "F64", "0000000000001440"},
      {DType::kF32, "F32", "0000a040"},
      {DType::kF16, "F16", "0045"},
      {DType::kBF16, "BF16", "a040"},
      {DType::kF8E4M3, "F8_E4M3", "4a"},
      {DType::kF8E5M2, "F8_E5M2", "45"},
      {DType::kI64, "I64", "0500000000000000"},
      {DType::kI32, "I32", "05000000"},
      {DType::kI16, "I16", "0500"},
      {DType::kI8, "I8", "05"},
      {DType::kU64, "U64", "0500000000000000"},
      {DType::kU32, "U32", "05000000"},
      {DType::kU16, "U16", "0500"},
      {DType::kU8, "U8", "05"},
      {DType::kBool, "BOOL", "01"},
  };
  auto file = SafetensorsFile::open(kDtypes);
  ASSERT_TRUE(file.ok()) << file.status().message();
  ASSERT_EQ((*file)->tensors().size(), expected.size());
  for (const auto& [dtype, name, last] : expected) {
    const TensorEntry& tensor = tensor_of(**file, name);
    EXPECT_EQ(tensor.dtype, dtype) << name;
    EXPECT_EQ(tensor.shape, (std::vector<int64_t>{2, 3})) << name;
    const auto width = static_cast<int64_t>(dtype_bytes(dtype));
    ASSERT_EQ(tensor.bytes, 6 * width) << name;
    EXPECT_EQ(hex(static_cast<const char*>(tensor.data) + 5 * width, width), last) << name;
  }
}

TEST(Safetensors, ReadsShapesNamesAndMetadata) {
  auto file = SafetensorsFile::open(kShapes);
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ((*file)->tensors().size(), 6u);
  ASSERT_EQ((*file)->metadata().size(), 1u);
  EXPECT_EQ((*file)->metadata()[0],
            std::pair(std::string("format"), std::string("pt, \"quoted\"\nsecond line")));
  EXPECT_TRUE(tensor_of(**file, "scalar").shape.empty());
  EXPECT_EQ(load_unaligned<float>(tensor_of(**file, "scalar").data), 2.5f);
  EXPECT_EQ(tensor_of(**file, "empty").shape, (std::vector<int64_t>{0, 4}));
  EXPECT_EQ(tensor_of(**file, "empty.tail").bytes, 0);
  const TensorEntry& five = tensor_of(**file, "five.dims");
  EXPECT_EQ(five.shape, (std::vector<int64_t>{1, 2, 3, 4, 2}));
  for (int i = 0; i < 48; ++i) EXPECT_EQ(load_unaligned<int16_t>(five.data, i), i);
  EXPECT_EQ(*static_cast<const uint8_t*>(tensor_of(**file, "quote \" slash \\ tab \t").data), 7);
  EXPECT_EQ(load_unaligned<double>(tensor_of(**file, "gewicht.größe.权重.🜁").data, 1), -1.0);
  EXPECT_TRUE((*file)->check_unchanged().ok());
}

TEST_F(SafetensorsFiles, ReadsAllInPieces) {
  const std::string name = path("long.safetensors");
  constexpr int64_t kBytes = (int64_t{64} << 20) + 12345;
  SafetensorsWriter writer(name);
  writer.declare("long", DType::kU8, {kBytes});
  std::vector<uint32_t> words(static_cast<size_t>(kBytes) / 4 + 1);
  std::iota(words.begin(), words.end(), 0u);
  ASSERT_TRUE(writer.append(words.data(), static_cast<size_t>(kBytes)).ok());
  ASSERT_TRUE(writer.finish().ok());
  const auto file = SafetensorsFile::open(name);
  ASSERT_TRUE(file.ok()) << file.status().message();
  const void* data = tensor_of(**file, "long").data;
  const auto as_written = [&] { return std::memcmp(data, words.data(), static_cast<size_t>(kBytes)) == 0; };
  std::atomic<bool> moving{true};
  std::thread reader([&] {  // whoever reads meanwhile sees nothing of the move to large pages
    while (moving) EXPECT_TRUE(as_written());
  });
  std::vector<int64_t> pieces;
  const auto keep = [&](int64_t bytes) { return pieces.push_back(bytes), true; };
  const Status read = (*file)->read_in(keep);
  moving = false;
  reader.join();
  ASSERT_TRUE(read.ok()) << read.message();
  EXPECT_TRUE(as_written());
  ASSERT_EQ(pieces.size(), 2u);
  EXPECT_EQ(pieces[0] + pieces[1], (*file)->bytes());
  EXPECT_EQ((*file)->read_in([](int64_t) { return false; }).code(), Code::kCancelled);
  ASSERT_EQ(truncate(name.c_str(), int64_t{1} << 20), 0);
  const Status cut = (*file)->read_in(keep);
  EXPECT_EQ(cut.code(), Code::kIo);
  EXPECT_NE(cut.message().find("long.safetensors' beyond byte"), std::string::npos) << cut.message();
}

// The same tensors through the writer give the reference library's file, byte for byte; pieces of seven bytes
// cross tensors and the buffer's edges.
TEST_F(SafetensorsFiles, WritesWhatTheReferenceLibraryWrites) {
  for (const char* golden : {kDtypes, kShapes}) {
    auto file = SafetensorsFile::open(golden);
    ASSERT_TRUE(file.ok()) << file.status().message();
    SafetensorsWriter writer(path("out.safetensors"), (*file)->metadata());
    std::string data;
    for (const TensorEntry& tensor : (*file)->tensors()) {
      writer.declare(tensor.name, tensor.dtype, tensor.shape);
      data.append(static_cast<const char*>(tensor.data), static_cast<size_t>(tensor.bytes));
    }
    for (size_t at = 0; at < data.size(); at += 7) {
      ASSERT_TRUE(writer.append(data.data() + at, std::min<size_t>(7, data.size() - at)).ok());
    }
    const Status status = writer.finish();
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(content("out.safetensors"), *read_text_file(golden, 1 << 20)) << golden;
  }
  EXPECT_EQ(names(), std::vector<std::string>{"out.safetensors"});
}

// Declared narrow before wide, and larger than the buffer: wide tensors come first in the file, each aligned.
TEST_F(SafetensorsFiles, AlignsTensorsWhateverTheOrder) {
  const size_t big = (size_t{9} << 20) + 3;
  std::string bytes(3 + big + 4 * 5 + 8, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 2654435761u >> 13);
  SafetensorsWriter writer(path("x.safetensors"), {{"a", "1"}, {"b", "2"}});
  writer.declare("odd", DType::kU8, {3});
  writer.declare("big", DType::kI8, {static_cast<int64_t>(big)});
  writer.declare("floats", DType::kF32, {5});
  writer.declare("none", DType::kF32, {7, 0});
  writer.declare("double", DType::kF64, {});
  ASSERT_TRUE(writer.append(bytes.data(), bytes.size() - 20).ok());
  ASSERT_TRUE(writer.append(bytes.data() + bytes.size() - 20, 20).ok());
  EXPECT_FALSE(fs::exists(path("x.safetensors"))) << "visible before finish";
  ASSERT_TRUE(writer.finish().ok());

  auto file = SafetensorsFile::open(path("x.safetensors"));
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ((*file)->metadata().size(), 2u);
  EXPECT_EQ((*file)->tensors().front().name, "double");
  size_t at = 0;
  for (const char* name : {"odd", "big", "floats", "none", "double"}) {
    const TensorEntry& tensor = tensor_of(**file, name);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data) % dtype_bytes(tensor.dtype), 0u) << name;
    EXPECT_EQ(std::memcmp(tensor.data, bytes.data() + at, static_cast<size_t>(tensor.bytes)), 0) << name;
    at += static_cast<size_t>(tensor.bytes);
  }
  EXPECT_EQ(at, bytes.size());
}

TEST_F(SafetensorsFiles, WritesAFileWithoutTensors) {
  SafetensorsWriter writer(path("none.safetensors"));
  ASSERT_TRUE(writer.finish().ok());
  auto file = SafetensorsFile::open(path("none.safetensors"));
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_TRUE((*file)->tensors().empty());
}

TEST_F(SafetensorsFiles, WriterRefusesWhatTheReaderWould) {
  const auto refused = [&](auto&& fill, const char* part) {
    SafetensorsWriter writer(path("bad.safetensors"));
    fill(writer);
    const Status status = writer.finish();
    EXPECT_EQ(status.code(), Code::kInvalid) << part;
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
    EXPECT_EQ(writer.finish().message(), status.message()) << "the first error stays";
    EXPECT_TRUE(names().empty()) << part;
  };
  using Writer = SafetensorsWriter;
  refused(
      [](Writer& w) {
        w.declare("a", DType::kU8, {0});
        w.declare("a", DType::kU8, {0});
      },
      "'a' stands twice");
  refused([](Writer& w) { w.declare("__metadata__", DType::kU8, {0}); }, "__metadata__");
  refused([](Writer& w) { w.declare("a", DType::kF32, {int64_t{1} << 31, int64_t{1} << 31}); }, "overflows");
  refused([](Writer& w) { w.declare("a", DType::kF32, {-1}); }, "overflows");
  refused(
      [](Writer& w) {
        w.declare("a", DType::kU8, {1, 1, 1, 1, 1, 1, 1, 1, 1});
      },
      "more than 8 dimensions");
  refused([](Writer& w) { w.declare("\xFF", DType::kU8, {0}); }, "not valid UTF-8");
  refused([](Writer& w) { w.declare("a", DType::kU8, {2}); }, "'a' has 0 of its 2 bytes");
  refused(
      [](Writer& w) {
        w.declare("a", DType::kU8, {2});
        EXPECT_EQ(w.append("xyz", 3).code(), Code::kInvalid);
      },
      "1 bytes more");
}

TEST_F(SafetensorsFiles, AbandonedWriterLeavesTheOldFile) {
  ASSERT_TRUE(write_text_file(path("m.safetensors"), "old").ok());
  {
    SafetensorsWriter writer(path("m.safetensors"));
    writer.declare("a", DType::kU8, {4});
    ASSERT_TRUE(writer.append("ab", 2).ok());
    EXPECT_EQ(names().size(), 2u) << "the temporary file is there";
  }
  EXPECT_EQ(names(), std::vector<std::string>{"m.safetensors"});
  EXPECT_EQ(content("m.safetensors"), "old");
}

TEST_F(SafetensorsFiles, OpenRefusesWhatIsNoFile) {
  EXPECT_EQ(SafetensorsFile::open(path("absent")).status().code(), Code::kNotFound);
  EXPECT_EQ(SafetensorsFile::open(dir_).status().code(), Code::kIo);
  ASSERT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_EQ(SafetensorsFile::open(path("pipe")).status().code(), Code::kIo);
  ASSERT_TRUE(write_text_file(path("empty"), "").ok());
  const Status status = SafetensorsFile::open(path("empty")).status();
  EXPECT_EQ(status.code(), Code::kInvalid);
  EXPECT_NE(status.message().find(path("empty")), std::string::npos);
}

TEST_F(SafetensorsFiles, NoticesAFileThatChanges) {
  fs::copy_file(kDtypes, path("d.safetensors"));
  auto cut = SafetensorsFile::open(path("d.safetensors"));
  ASSERT_TRUE(cut.ok());
  ASSERT_EQ(truncate(path("d.safetensors").c_str(), 100), 0);
  EXPECT_EQ((*cut)->check_unchanged().code(), Code::kInvalid);
  EXPECT_EQ(SafetensorsFile::open(path("d.safetensors")).status().code(), Code::kInvalid);

  fs::copy_file(kShapes, path("s.safetensors"));
  auto replaced = SafetensorsFile::open(path("s.safetensors"));
  ASSERT_TRUE(replaced.ok());
  ASSERT_TRUE(write_text_file(path("s.safetensors"), "other").ok());
  EXPECT_TRUE((*replaced)->check_unchanged().ok()) << "a rename leaves the mapped file alone";
  EXPECT_EQ(load_unaligned<float>(tensor_of(**replaced, "scalar").data), 2.5f);
}

struct Hostile {
  const char* what;
  std::string bytes;
  const char* message;  // a part of it
};

std::string one(const std::string& fields) { return "{\"t\":{" + fields + "}}"; }
const std::string kGood = R"("dtype":"U8","shape":[2],"data_offsets":[0,2])";

std::vector<Hostile> hostile_files() {
  const std::string huge = "9223372036854775807";
  const auto u8 = [](const char* name, const char* shape, const char* offsets) {
    return fmt::format(R"("{}":{{"dtype":"U8","shape":[{}],"data_offsets":[{}]}})", name, shape, offsets);
  };
  const auto with_shape = [](const std::string& shape) {
    return framed(one(R"("dtype":"F32","shape":)" + shape + R"(,"data_offsets":[0,4])"), "abcd");
  };
  const auto with_offsets = [](const std::string& offsets) {
    return framed(one(R"("dtype":"U8","shape":[2],"data_offsets":)" + offsets), "ab");
  };
  std::string beyond = framed("{}");
  beyond[0] = 3;
  std::string hundred_mb = framed("{}"), all_ones = framed("{}");
  const uint64_t limit = 100'000'001;
  std::memcpy(hundred_mb.data(), &limit, 8);
  std::memset(all_ones.data(), 0xFF, 8);
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "{\"a\":";
  return {
      {"empty", "", "too few"},
      {"seven bytes", "\x02\0\0\0\0\0\0", "too few"},
      {"length without header", std::string("\x02\0\0\0\0\0\0\0", 8), "only 0 follow"},
      {"length beyond the file", beyond, "only 2 follow"},
      {"length beyond 100 MB", hundred_mb, "beyond the limit"},
      {"length of 64 ones", all_ones, "beyond the limit"},
      {"length zero", framed(""), "does not start with '{'"},
      {"array", framed("[]"), "does not start with '{'"},
      {"number", framed("1"), "does not start with '{'"},
      {"leading space", framed(" {}"), "does not start with '{'"},
      {"byte order mark", framed("\xEF\xBB\xBF{}"), "does not start with '{'"},
      {"truncated JSON", framed("{\"t\":{\"dtype\":"), "not valid JSON"},
      {"two objects", framed("{}{}"), "not valid JSON"},
      {"text after the object", framed("{} x"), "not valid JSON"},
      {"zero bytes after the object", framed(std::string("{}\0\0", 4)), "zero byte"},
      {"trailing comma", framed("{" + u8("a", "0", "0,0") + ",}"), "not valid JSON"},
      {"comment", framed("{/* */}"), "not valid JSON"},
      {"bad UTF-8", framed("{\"\xC3\x28\":{" + kGood + "}}", "ab"), "not valid JSON"},
      {"lone surrogate", framed("{\"\\ud800\":{" + kGood + "}}", "ab"), "not valid JSON"},
      {"deep objects", framed(deep), "has an unknown field 'a'"},
      {"deep arrays", framed("{\"a\":" + std::string(100'000, '[')), "has an array where"},
      {"deep shape", with_shape("[[[[1]]]]"), "has an array where"},
      {"tensor is a string", framed("{\"t\":\"x\"}"), "has a string where"},
      {"tensor is null", framed("{\"t\":null}"), "has null where"},
      {"tensor is a number", framed("{\"t\":1}"), "has a number where"},
      {"no dtype", framed(one(R"("shape":[2],"data_offsets":[0,2])"), "ab"), "has no dtype"},
      {"no shape", framed(one(R"("dtype":"U8","data_offsets":[0,2])"), "ab"), "has no shape"},
      {"no offsets", framed(one(R"("dtype":"U8","shape":[2])"), "ab"), "no pair of data_offsets"},
      {"no fields", framed(R"({"t":{}})"), "has no dtype"},
      {"unknown field", framed(one(kGood + R"(,"x":1)"), "ab"), "unknown field 'x'"},
      {"field twice", framed(one(kGood + R"(,"shape":[2])"), "ab"), "the field 'shape' twice"},
      {"dtype is a number", framed(one(R"("dtype":1,"shape":[2],"data_offsets":[0,2])"), "ab"),
       "has a number where"},
      {"tensor twice", framed("{" + u8("a", "0", "0,0") + "," + u8("a", "0", "0,0") + "}"),
       "'a' stands twice"},
      {"tensor twice, escaped",
       framed("{" + u8("a", "1", "0,1") + "," + u8("\\u0061", "1", "1,2") + "}", "ab"), "'a' stands twice"},
      {"nine dimensions", with_shape("[1,1,1,1,1,1,1,1,1]"), "more than 8 dimensions"},
      {"negative dimension", with_shape("[-1]"), "a negative number"},
      {"negative zero", with_shape("[-0]"), "a negative number"},
      {"fractional dimension", with_shape("[1.0]"), "not a 64-bit integer"},
      {"exponent", with_shape("[1e0]"), "not a 64-bit integer"},
      {"NaN dimension", with_shape("[NaN]"), "not valid JSON"},
      {"dimension out of double", with_shape("[1e999]"), "not valid JSON"},
      {"string dimension", with_shape("[\"1\"]"), "has a string where"},
      {"shape is a number", with_shape("1"), "has a number where"},
      {"dimension beyond 63 bits", with_shape("[9223372036854775808]"), "beyond 63 bits"},
      {"dimension beyond 64 bits", with_shape("[18446744073709551617]"), "not a 64-bit integer"},
      {"product overflows", with_shape("[4294967296,4294967296]"), "overflows"},
      {"product wraps to four bytes", with_shape("[" + huge + ",3,3]"), "overflows"},
      {"product times width wraps", with_shape("[4611686018427387905]"), "overflows"},
      {"overflow behind a zero", with_shape("[0," + huge + "," + huge + "]"), "overflows"},
      {"wrong byte count", with_shape("[2]"), "has 4 bytes of data where its shape needs 8"},
      {"scalar of no bytes", framed(one(R"("dtype":"U8","shape":[],"data_offsets":[0,0])")), "needs 1"},
      {"three offsets", with_offsets("[0,2,2]"), "more than two data_offsets"},
      {"one offset", with_offsets("[0]"), "no pair of data_offsets"},
      {"negative offset", with_offsets("[-2,0]"), "a negative number"},
      {"float offset", with_offsets("[0,2.0]"), "not a 64-bit integer"},
      {"infinite offset", with_offsets("[0,Infinity]"), "not valid JSON"},
      {"reversed offsets", with_offsets("[2,0]"), "before its start"},
      {"offset beyond the data", with_offsets("[1,3]"), "but the file has 2 bytes"},
      {"offset of 64 ones", with_offsets("[0,18446744073709551615]"), "but the file has 2 bytes"},
      {"overlap", framed("{" + u8("a", "2", "0,2") + "," + u8("b", "2", "1,3") + "}", "abc"), "an overlap"},
      {"same place", framed("{" + u8("a", "2", "0,2") + "," + u8("b", "2", "0,2") + "}", "ab"), "an overlap"},
      {"gap", framed("{" + u8("a", "1", "0,1") + "," + u8("b", "1", "2,3") + "}", "abc"), "a gap"},
      {"gap at the start", framed("{" + u8("a", "1", "1,2") + "}", "ab"), "a gap"},
      {"empty tensor inside another",
       framed("{" + u8("a", "2", "0,2") + "," + u8("b", "0", "1,1") + "}", "ab"), "an overlap"},
      {"data after the end", framed("{" + u8("a", "1", "0,1") + "}", "abc"), "2 bytes of data after"},
      {"data without tensors", framed("{}", "abc"), "3 bytes of data after"},
      {"metadata is a string", framed(R"({"__metadata__":"x"})"), "has a string where"},
      {"metadata holds a number", framed(R"({"__metadata__":{"a":1}})"), "has a number where"},
      {"metadata holds an object", framed(R"({"__metadata__":{"a":{}}})"), "has an object where"},
      {"metadata key twice", framed(R"({"__metadata__":{"a":"1","a":"2"}})"), "the key 'a' twice"},
      {"metadata twice", framed(R"({"__metadata__":{},"__metadata__":{}})"), "stands twice"},
  };
}

TEST(Safetensors, RefusesHostileFiles) {
  for (const Hostile& hostile : hostile_files()) {
    const auto file = SafetensorsFile::parse(hostile.bytes, "the-file");
    ASSERT_FALSE(file.ok()) << hostile.what;
    const std::string& message = file.status().message();
    EXPECT_EQ(file.status().code(), Code::kInvalid) << hostile.what;
    EXPECT_NE(message.find(hostile.message), std::string::npos) << hostile.what << ": " << message;
    EXPECT_NE(message.find("the-file"), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
  // The table's base case is good, so each entry is refused for its own fault.
  EXPECT_TRUE(SafetensorsFile::parse(framed(one(kGood), "ab"), "good").ok());
  EXPECT_TRUE(SafetensorsFile::parse(framed(one(kGood) + "   \n", "ab"), "padded").ok());
}

TEST(Safetensors, RefusesUnknownTypesByName) {
  for (const char* dtype : {"F4", "F8_E8M0", "C64", "f32", "", "I4"}) {
    const std::string header = fmt::format(R"("dtype":"{}","shape":[2],"data_offsets":[0,2])", dtype);
    const auto file = SafetensorsFile::parse(framed("{\"layer.7\\nweight\":{" + header + "}}", "ab"), "m");
    ASSERT_FALSE(file.ok()) << dtype;
    EXPECT_EQ(file.status().code(), Code::kUnsupported) << dtype;
    EXPECT_NE(file.status().message().find(fmt::format("'layer.7\\x0aweight' has dtype '{}'", dtype)),
              std::string::npos)
        << file.status().message();
  }
}

TEST(Safetensors, RefusesEveryTruncation) {
  for (const char* golden : {kDtypes, kShapes}) {
    const std::string bytes = *read_text_file(golden, 1 << 20);
    for (size_t size = 0; size < bytes.size(); ++size) {
      ASSERT_FALSE(SafetensorsFile::parse(std::string_view(bytes).substr(0, size), "cut").ok()) << size;
    }
    EXPECT_FALSE(SafetensorsFile::parse(bytes + "x", "longer").ok());
  }
}

TEST(Safetensors, SortsByOffset) {
  const std::string header = R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},)"
                             R"("e":{"dtype":"U8","shape":[0],"data_offsets":[1,1]},)"
                             R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  const std::string bytes = framed(header, "xy");
  auto file = SafetensorsFile::parse(bytes, "m");
  ASSERT_TRUE(file.ok()) << file.status().message();
  ASSERT_EQ((*file)->tensors().size(), 3u);
  EXPECT_EQ((*file)->tensors()[0].name, "a");
  EXPECT_EQ((*file)->tensors()[1].name, "e");
  EXPECT_EQ((*file)->tensors()[2].name, "b");
  EXPECT_EQ(*static_cast<const char*>((*file)->tensors()[2].data), 'y');
}

TEST(Safetensors, RefusesMoreThanAMillionTensors) {
  std::string header = "{";
  for (int i = 0; i <= 1'000'000; ++i) {
    header += fmt::format(R"({}"{:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", i ? "," : "", i);
  }
  const auto file = SafetensorsFile::parse(framed(header + "}"), "m");
  ASSERT_FALSE(file.ok());
  EXPECT_NE(file.status().message().find("beyond the limit of 1000000 tensors"), std::string::npos);
}

// Runs body in a child process, whose limits and mounts die with it; its exit code, 77 meaning "cannot do
// that here".
template <class Body>
int in_child(Body body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Status write_megabyte(const std::string& path) {
  SafetensorsWriter writer(path);
  writer.declare("a", DType::kU8, {1 << 20});
  const std::string bytes(1 << 20, 'x');
  if (Status status = writer.append(bytes.data(), bytes.size()); !status.ok()) return status;
  return writer.finish();
}

// A namespace of mounts of this process's own; without root through a namespace of users.
bool private_mounts() {
  if (unshare(CLONE_NEWNS) != 0) {
    const auto put = [](const char* file, const std::string& text) {
      const int fd = open(file, O_WRONLY);
      const bool ok = fd >= 0 && write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
      if (fd >= 0) close(fd);
      return ok;
    };
    const std::string users = fmt::format("0 {} 1", geteuid()), groups = fmt::format("0 {} 1", getegid());
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0 || !put("/proc/self/uid_map", users) ||
        !put("/proc/self/setgroups", "deny") || !put("/proc/self/gid_map", groups)) {
      return false;
    }
  }
  return mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
}

TEST_F(SafetensorsFiles, FullDiskIsNamedAndLeavesNothing) {
  const int code = in_child([&] {
    if (!private_mounts() || mount("tmpfs", dir_.c_str(), "tmpfs", 0, "size=64k") != 0) return 77;
    const Status tensors = write_megabyte(path("a.safetensors"));
    const Status text = write_text_file(path("b.json"), std::string(1 << 20, 'x'));
    for (const Status& status : {tensors, text}) {
      if (status.code() != Code::kIo || status.message().find("No space left") == std::string::npos) return 1;
      if (status.message().find("free some disk space") == std::string::npos) return 2;
    }
    return names().empty() ? 0 : 3;
  });
  if (code == 77) GTEST_SKIP() << "no permission to mount a small file system";
  EXPECT_EQ(code, 0);
}

TEST_F(SafetensorsFiles, FileSizeLimitIsNamedAndLeavesNothing) {
  const int code = in_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 77;
    const Status tensors = write_megabyte(path("a.safetensors"));
    const Status text = write_text_file(path("b.json"), std::string(1 << 20, 'x'));
    for (const Status& status : {tensors, text}) {
      if (status.code() != Code::kIo || status.message().find("ulimit -f") == std::string::npos) return 1;
    }
    return names().empty() ? 0 : 3;
  });
  EXPECT_EQ(code, 0);
}

TEST_F(TextFiles, RoundTripAndLimits) {
  const std::string text("line\n\0\xFF tail", 12);
  ASSERT_TRUE(write_text_file(path("t"), text).ok());
  EXPECT_EQ(content("t"), text);
  ASSERT_TRUE(write_text_file(path("t"), "second").ok());
  EXPECT_EQ(content("t"), "second");
  EXPECT_EQ(*read_text_file(path("t"), 6), "second");
  EXPECT_EQ(read_text_file(path("t"), 5).status().code(), Code::kInvalid);
  EXPECT_EQ(read_text_file(path("none"), 5).status().code(), Code::kNotFound);
  EXPECT_EQ(read_text_file(dir_, 5).status().code(), Code::kIo);
  EXPECT_EQ(read_text_file("/dev/zero", 5).status().code(), Code::kIo);
  EXPECT_EQ(names().size(), 1u);
}

TEST_F(TextFiles, WriteFaults) {
  EXPECT_EQ(write_text_file(path("no/such/folder"), "x").code(), Code::kNotFound);
  EXPECT_EQ(write_text_file("/dev/full", "x").code(), Code::kInvalid) << "a device is not replaced";
  EXPECT_EQ(write_text_file(dir_, "x").code(), Code::kInvalid);
  EXPECT_EQ(write_text_file("/proc/moebius", "x").ok(), false);
  if (geteuid() != 0) {
    fs::permissions(dir_, fs::perms::owner_read | fs::perms::owner_exec);
    const Status status = write_text_file(path("t"), "x");
    fs::permissions(dir_, fs::perms::owner_all);
    EXPECT_EQ(status.code(), Code::kIo);
    EXPECT_NE(status.message().find("check its permissions"), std::string::npos) << status.message();
  }
}

TEST_F(TextFiles, LinkAtThePathIsReplacedNotFollowed) {
  ASSERT_TRUE(write_text_file(path("blob"), "blob").ok());
  fs::create_symlink("blob", path("link"));
  ASSERT_TRUE(write_text_file(path("link"), "mine").ok());
  EXPECT_EQ(content("blob"), "blob");
  EXPECT_EQ(content("link"), "mine");
  EXPECT_FALSE(fs::is_symlink(path("link")));
}

TEST(Printable, OneLineOfWholeCharacters) {
  EXPECT_EQ(printable("a\nb\x1B[0m\x7F"), "a\\x0ab\\x1b[0m\\x7f");
  EXPECT_EQ(printable("größe"), "größe");
  EXPECT_EQ(printable("größe", 3), "gr...");
  EXPECT_EQ(printable("größe", 4), "grö...");
}

}  // namespace
}  // namespace moebius
