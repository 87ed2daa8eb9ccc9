// Checkpoints in one file and in shards, hostile indexes, and the layout of the Hugging Face cache.
#include "models/checkpoint.h"

#include <gtest/gtest.h>

#include <fmt/format.h>
#include <cstring>
#include <filesystem>

namespace moebius {
namespace {

namespace fs = std::filesystem;

constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kCommit = "0123456789abcdef0123456789abcdef01234567";
constexpr const char* kOther = "fedcba9876543210fedcba9876543210fedcba98";

class FilesTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "moebius-files-XXXXXX";
    // Temporary folders may lie behind a link themselves.
    dir_ = fs::canonical(mkdtemp(pattern.data())).string();
  }
  void TearDown() override { fs::remove_all(dir_); }

  std::string path(const std::string& name) const { return dir_ + "/" + name; }

  // A file at path(name) with tensors of one byte each.
  void put_tensors(const std::string& name, const std::vector<std::string>& tensors) const {
    fs::create_directories(fs::path(path(name)).parent_path());
    SafetensorsWriter writer(path(name));
    std::string data;
    for (const std::string& tensor : tensors) {
      writer.declare(tensor, DType::kU8, {1});
      data += tensor.back();
    }
    ASSERT_TRUE(writer.append(data.data(), data.size()).ok());
    ASSERT_TRUE(writer.finish().ok());
  }
  void put_text(const std::string& name, const std::string& text) const {
    fs::create_directories(fs::path(path(name)).parent_path());
    ASSERT_TRUE(write_text_file(path(name), text).ok());
  }
  void put_link(const std::string& name, const std::string& target) const {
    fs::create_directories(fs::path(path(name)).parent_path());
    fs::create_symlink(target, path(name));
  }
  void expect_error(const Status& status, Code code, const std::vector<std::string>& parts) const {
    EXPECT_EQ(status.code(), code) << status.message();
    EXPECT_EQ(status.message().find('\n'), std::string::npos) << status.message();
    for (const std::string& part : parts) {
      EXPECT_NE(status.message().find(part), std::string::npos)
          << "'" << part << "' in: " << status.message();
    }
  }
  std::string dir_;
};
using CheckpointTest = FilesTest;
using CacheTest = FilesTest;

char value_of(const Checkpoint& checkpoint, const std::string& name) {
  const TensorEntry* entry = checkpoint.find(name);
  return entry ? *static_cast<const char*>(entry->data) : '\0';
}

TEST_F(CheckpointTest, OneFile) {
  put_tensors("model.safetensors", {"x.a", "x.b"});
  put_text(kIndex, "an index beside a single file is not read");
  auto checkpoint = Checkpoint::open(dir_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_EQ((*checkpoint)->dir(), dir_);
  EXPECT_EQ((*checkpoint)->tensors().size(), 2u);
  EXPECT_EQ((*checkpoint)->total_bytes(), 2);
  EXPECT_EQ(value_of(**checkpoint, "x.a"), 'a');
  EXPECT_EQ(value_of(**checkpoint, "x.b"), 'b');
  EXPECT_EQ((*checkpoint)->find("x.c"), nullptr);
  EXPECT_TRUE((*checkpoint)->check_unchanged().ok());
  fs::resize_file(path("model.safetensors"), 8);
  EXPECT_EQ((*checkpoint)->check_unchanged().code(), Code::kInvalid);
}

TEST_F(CheckpointTest, Shards) {
  put_tensors("model-00001-of-00002.safetensors", {"x.c", "x.a"});
  put_tensors("model-00002-of-00002.safetensors", {"x.b", "unlisted.d"});
  put_text(kIndex, R"({"weight_map":{"x.b":"model-00002-of-00002.safetensors",
    "x.a":"model-00001-of-00002.safetensors","x.c":"model-00001-of-00002.safetensors"},
    "metadata":{"total_size":4,"nested":[[{"a":null}],1.5,true]}})");
  auto checkpoint = Checkpoint::open(dir_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  std::string order;
  for (const TensorEntry* tensor : (*checkpoint)->tensors()) order += tensor->name.back();
  EXPECT_EQ(order, "cabd") << "shards by name, tensors by offset";
  EXPECT_EQ((*checkpoint)->total_bytes(), 4);
  for (const char* name : {"x.a", "x.b", "x.c", "unlisted.d"}) {
    EXPECT_EQ(value_of(**checkpoint, name), name[strlen(name) - 1]);
  }
}

TEST_F(CheckpointTest, EveryMissingShardIsNamed) {
  put_tensors("b.safetensors", {"b"});
  put_link("d.safetensors", "nowhere");
  put_text(kIndex, R"({"weight_map":{"a":"a.safetensors","b":"b.safetensors","c":"c.safetensors",
    "d":"d.safetensors"}})");
  expect_error(
      Checkpoint::open(dir_).status(), Code::kNotFound,
      {"lacks 3 of its 4 shards", "'a.safetensors'", "'c.safetensors'", "'d.safetensors'", "complete"});
}

TEST_F(CheckpointTest, IndexAndShardsMustAgree) {
  put_tensors("a.safetensors", {"a"});
  put_tensors("b.safetensors", {"b"});
  put_text(kIndex, R"({"weight_map":{"a":"a.safetensors","b":"a.safetensors","c":"b.safetensors"}})");
  expect_error(Checkpoint::open(dir_).status(), Code::kInvalid,
               {"'b' is in another shard", "not in 'a.safetensors'"});
  put_text(kIndex, R"({"weight_map":{"a":"a.safetensors","c":"b.safetensors"}})");
  expect_error(Checkpoint::open(dir_).status(), Code::kInvalid, {"'c' is not in 'b.safetensors'"});
  put_tensors("b.safetensors", {"b", "a"});
  put_text(kIndex, R"({"weight_map":{"a":"a.safetensors","b":"b.safetensors"}})");
  expect_error(Checkpoint::open(dir_).status(), Code::kInvalid,
               {"'a' of 'b.safetensors' is in another shard too"});
  put_text("b.safetensors", "not tensors");
  expect_error(Checkpoint::open(dir_).status(), Code::kInvalid, {path("b.safetensors")});
}

TEST_F(CheckpointTest, HostileIndexes) {
  put_tensors("a.safetensors", {"a"});
  put_tensors("sub/a.safetensors", {"a"});
  const std::string outside = fs::path(dir_).filename().string();
  const auto map_to = [](const std::string& shard) { return R"({"weight_map":{"a":")" + shard + R"("}})"; };
  std::string deep = R"({"metadata":)" + std::string(100'000, '[');
  const std::vector<std::pair<std::string, const char*>> table = {
      {map_to("../" + outside + "/a.safetensors"), "plain name"},
      {map_to("sub/a.safetensors"), "plain name"},
      {map_to("sub\\\\a.safetensors"), "plain name"},
      {map_to(dir_ + "/a.safetensors"), "plain name"},
      {map_to("..safetensors"), "plain name"},
      {map_to(".safetensors"), "plain name"},
      {map_to(""), "plain name"},
      {map_to("."), "plain name"},
      {map_to("a.bin"), "plain name"},
      {map_to("a\\u0000.safetensors"), "plain name"},
      {map_to("a\\n.safetensors"), "plain name"},
      {map_to(std::string(300, 'x') + ".safetensors"), "plain name"},
      {"", "not valid JSON"},
      {"{", "not valid JSON"},
      {"{} {}", "not valid JSON"},
      {map_to("a.safetensors") + std::string(1, '\0') + "x", "zero byte"},
      {"[]", "not an object"},
      {"\"weight_map\"", "not an object"},
      {"{}", "no weight_map"},
      {R"({"weight_map":{}})", "no weight_map"},
      {R"({"weight_map":[]})", "no weight_map"},
      {R"({"x":{"weight_map":{"a":"a.safetensors"}}})", "no weight_map"},
      {R"({"weight_map":{"a":1}})", "'a' is not mapped to a string"},
      {R"({"weight_map":{"a":["a.safetensors"]}})", "'a' is not mapped to a string"},
      {R"({"weight_map":{"a":{}}})", "other than strings"},
      {R"({"weight_map":{"a":"a.safetensors","a":"a.safetensors"}})", "'a' twice"},
      {R"({"weight_map":{"a":"a.safetensors"},"weight_map":{"b":"a.safetensors"}})", "two weight_maps"},
      {deep, "nested beyond 64"},
      {"{\"\xFF\":1}", "not valid JSON"},
  };
  for (const auto& [json, part] : table) {
    put_text(kIndex, json);
    expect_error(Checkpoint::open(dir_).status(), Code::kInvalid, {part, kIndex});
  }
  put_text(kIndex, map_to("a.safetensors"));
  EXPECT_TRUE(Checkpoint::open(dir_).ok()) << "the base case of the table is good";
}

TEST_F(CheckpointTest, SaysWhatAFolderHoldsInstead) {
  expect_error(Checkpoint::open(path("none")).status(), Code::kNotFound, {path("none"), "not a folder"});
  expect_error(Checkpoint::open(dir_).status(), Code::kNotFound, {dir_, kIndex});
  put_text("pytorch_model.bin", "");
  expect_error(Checkpoint::open(dir_).status(), Code::kNotFound, {"'pytorch_model.bin'", "safetensors"});
  put_text("m.Q4.gguf", "");
  expect_error(Checkpoint::open(dir_).status(), Code::kNotFound, {"'m.Q4.gguf'", "GGUF"});
  put_tensors("model-00001-of-00002.safetensors", {"a"});
  expect_error(Checkpoint::open(dir_).status(), Code::kNotFound,
               {"'model-00001-of-00002.safetensors'", "complete"});
}

TEST_F(CheckpointTest, LinksInAPlainFolderAreFollowed) {
  put_tensors("elsewhere/weights", {"a"});
  put_link("model/model.safetensors", "../elsewhere/weights");
  auto checkpoint = Checkpoint::open(path("model"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_EQ(value_of(**checkpoint, "a"), 'a');
}

TEST_F(CacheTest, FoldersComeFirst) {
  put_tensors("org/name/model.safetensors", {"a"});
  EXPECT_EQ(*resolve_model_dir(path("org/name"), ""), path("org/name"));
  EXPECT_EQ(*resolve_model_dir(path("org/name/"), path("no-cache")), path("org/name/"));
  expect_error(resolve_model_dir(path("org/name/model.safetensors"), "").status(), Code::kInvalid,
               {"is a file"});
  expect_error(resolve_model_dir("", "").status(), Code::kInvalid, {"no model"});
  expect_error(resolve_model_dir("./missing", dir_).status(), Code::kNotFound, {"./missing"});
  expect_error(resolve_model_dir("org/missing", "").status(), Code::kNotFound, {"org/missing", "HF_HOME"});
}

// The layout of huggingface_hub: refs/<branch>, snapshots/<commit>/<file> -> ../../blobs/<etag>.
TEST_F(CacheTest, ResolvesBranchesTagsAndCommits) {
  put_tensors("hub/models--org--name/blobs/1111", {"a"});
  put_text("hub/models--org--name/blobs/2222", "{}");
  put_text("hub/models--org--name/refs/main", kCommit);
  put_text("hub/models--org--name/refs/refs/pr/1", std::string(kOther) + "\n");
  put_link(fmt::format("hub/models--org--name/snapshots/{}/model.safetensors", kCommit), "../../blobs/1111");
  put_link(fmt::format("hub/models--org--name/snapshots/{}/sub/config.json", kCommit), "../../../blobs/2222");
  put_link(fmt::format("hub/models--org--name/snapshots/{}/gone.bin", kCommit), "../../blobs/3333");
  put_link(fmt::format("hub/models--org--name/snapshots/{}/model.safetensors", kOther), "../../blobs/1111");
  const std::string hub = path("hub");
  const std::string first = fmt::format("{}/models--org--name/snapshots/{}", hub, kCommit);
  const std::string second = fmt::format("{}/models--org--name/snapshots/{}", hub, kOther);

  for (const std::string& id :
       {std::string("org/name"), std::string("org/name@main"), std::string("org/name@") + kCommit}) {
    auto dir = resolve_model_dir(id, hub);
    ASSERT_TRUE(dir.ok()) << dir.status().message();
    EXPECT_EQ(*dir, first) << id;
  }
  for (const std::string& id : {std::string("org/name@refs/pr/1"), std::string("org/name@") + kOther}) {
    auto dir = resolve_model_dir(id, hub);
    ASSERT_TRUE(dir.ok()) << dir.status().message();
    EXPECT_EQ(*dir, second) << id;
  }
  auto checkpoint = Checkpoint::open(first);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_EQ(value_of(**checkpoint, "a"), 'a');

  put_text("hub/models--plain/refs/main", kCommit);
  put_text(fmt::format("hub/models--plain/snapshots/{}/config.json", kCommit), "{}");
  EXPECT_TRUE(resolve_model_dir("plain", hub).ok()) << "an id without an organisation";
}

TEST_F(CacheTest, SaysWhereItLooked) {
  const std::string hub = path("hub");
  put_text("hub/models--org--name/refs/v2", kCommit);
  put_text("hub/models--org--name/refs/broken", "../../../etc");
  put_text("hub/models--org--name/refs/long", std::string(1000, 'a'));
  fs::create_directories(fmt::format("{}/models--org--name/snapshots/{}", hub, kOther));
  expect_error(resolve_model_dir("org/none", hub).status(), Code::kNotFound,
               {"org/none", hub + "/models--org--none", "hf download org/none"});
  expect_error(resolve_model_dir("org/name", hub).status(), Code::kNotFound, {"'main'", "'v2'", kOther});
  expect_error(resolve_model_dir("org/name@v2", hub).status(), Code::kNotFound, {"no snapshot", kCommit});
  expect_error(resolve_model_dir("org/name@broken", hub).status(), Code::kInvalid,
               {"does not hold a commit"});
  EXPECT_FALSE(resolve_model_dir("org/name@long", hub).ok());
}

TEST_F(CacheTest, RefusesIdsThatMoveAbout) {
  put_text("hub/models--org--name/refs/main", kCommit);
  put_text("hub/models--secret/model.safetensors", "x");
  put_text("refs/main", kCommit);
  for (const char* id :
       {"org/../name", "a/b/c", "org/", "org//name", "org/name@", "org/name@..", "org/name@../../x",
        "org/name@/etc", "org/.name", "org/na me", "org/na\nme", "org--name", "org/name@a@b"}) {
    expect_error(resolve_model_dir(id, path("hub")).status(), Code::kInvalid, {"neither a folder nor an id"});
  }
  expect_error(resolve_model_dir("../hub", path("hub")).status(), Code::kNotFound, {"no folder"});
  expect_error(resolve_model_dir(std::string("a\0b", 3), path("hub")).status(), Code::kInvalid,
               {"zero byte"});
}

TEST_F(CacheTest, RefusesLinksOutOfTheCache) {
  const std::string hub = path("hub"), repository = "hub/models--org--name/";
  const std::string snapshot = repository + "snapshots/" + kCommit;
  put_text(repository + "refs/main", kCommit);
  put_tensors("hub/models--org--name/blobs/1111", {"a"});
  put_link(snapshot + "/model.safetensors", "../../blobs/1111");
  put_text("secret.txt", "secret");
  ASSERT_TRUE(resolve_model_dir("org/name", hub).ok());
  ASSERT_TRUE(Checkpoint::open(path(snapshot)).ok());

  for (const std::string& target : {std::string("../../../../../secret.txt"), path("secret.txt"),
                                    std::string("/"), std::string("../../../blobs/../../../secret.txt")}) {
    put_link(snapshot + "/sub/config.json", target);
    const std::vector<std::string> parts = {snapshot + "/sub/config.json", "out of the Hugging Face cache"};
    expect_error(resolve_model_dir("org/name", hub).status(), Code::kInvalid, parts);
    expect_error(resolve_model_dir(path(snapshot), "").status(), Code::kInvalid, parts);
    expect_error(Checkpoint::open(path(snapshot)).status(), Code::kInvalid, parts);
    fs::remove(path(snapshot + "/sub/config.json"));
  }
  // Through a chain whose first step stays inside.
  put_link(repository + "blobs/2222", path("secret.txt"));
  put_link(snapshot + "/config.json", "../../blobs/2222");
  expect_error(resolve_model_dir("org/name", hub).status(), Code::kInvalid, {"config.json", "secret.txt"});
  fs::remove(path(snapshot + "/config.json"));
  EXPECT_TRUE(resolve_model_dir("org/name", hub).ok());

  // A snapshot that is itself a link.
  fs::create_directory(path("outside"));
  put_link(repository + "snapshots/" + kOther, path("outside"));
  expect_error(resolve_model_dir(std::string("org/name@") + kOther, hub).status(), Code::kInvalid,
               {"is a link"});
}

// A folder whose name only starts like the hub's is outside; a model's folder that the user moved to another
// disk and linked is not.
TEST_F(CacheTest, TheHubEndsWhereItsFolderEnds) {
  const std::string snapshot = std::string("hub/models--org--name/snapshots/") + kCommit;
  put_text("hub/models--org--name/refs/main", kCommit);
  put_text("hub-other/file", "x");
  put_link(snapshot + "/config.json", "../../../../hub-other/file");
  EXPECT_EQ(resolve_model_dir("org/name", path("hub")).status().code(), Code::kInvalid);

  put_text("disk/models--big--one/refs/main", kCommit);
  put_text("disk/models--big--one/blobs/1", "{}");
  put_link(std::string("disk/models--big--one/snapshots/") + kCommit + "/config.json", "../../blobs/1");
  put_link("hub/models--big--one", path("disk/models--big--one"));
  auto dir = resolve_model_dir("big/one", path("hub"));
  ASSERT_TRUE(dir.ok()) << dir.status().message();
  EXPECT_TRUE(fs::exists(*dir + "/config.json"));
}

}  // namespace
}  // namespace moebius
