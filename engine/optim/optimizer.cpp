#include "engine/optim/optimizer.h"

#include <atomic>
#include <cmath>
#include <numeric>
#include <set>

#include <fmt/format.h>

#include "kernels/tensor.h"

namespace moebius::optim {
namespace {

std::vector<StateShape> shapes_of(const Recipe& recipe, int64_t rows, int64_t cols) {
  std::vector<StateShape> shapes;
  for (const Part& part : recipe.parts) {
    std::visit(
        [&](const auto& p) {
          for (StateShape& shape : p.state(rows, cols)) shapes.push_back(std::move(shape));
        },
        part);
  }
  return shapes;
}

bool elementwise(const Recipe& recipe) {
  return std::ranges::all_of(recipe.parts, [](const Part& part) {
    return std::visit([](const auto& p) { return std::decay_t<decltype(p)>::kElementwise; }, part);
  });
}

int64_t scratch_of(const Recipe& recipe, int64_t rows, int64_t cols) {
  int64_t most = 0;
  for (const Part& part : recipe.parts)
    most = std::max(most, std::visit([&](const auto& p) { return p.scratch(rows, cols); }, part));
  return rows * cols + most;
}

std::string words(const HeavyBall& p) { return fmt::format("heavy ball {} {}", p.mu, p.nesterov); }
std::string words(const EmaMomentum& p) { return fmt::format("average {} {}", p.beta, p.nesterov); }
std::string words(const AdamMoments& p) { return fmt::format("adam {} {} {}", p.beta1, p.beta2, p.eps); }
std::string words(const Equilibrate& p) { return fmt::format("equilibrate {} {} {}", p.rows, p.cols, p.eps); }
std::string words(const Orthogonalize& p) {
  std::string text = fmt::format("orthogonalize {} {} {}", static_cast<int>(p.form), p.margin, p.eps);
  for (const Quintic& q : p.steps) text += fmt::format(" ({} {} {})", q.a, q.b, q.c);
  return text;
}
std::string words(const MatchRms& p) { return fmt::format("match rms {}", p.factor); }
std::string words(const SpectralScale& p) { return fmt::format("spectral scale {}", p.clamp); }
std::string words(const RowSecondMoment& p) { return fmt::format("row moment {} {}", p.beta, p.eps); }

Status check_parameter(const Recipe& recipe, const Parameter& p) {
  const auto wrong = [&](const char* what) {
    return invalid(
        fmt::format("optimizer: parameter {} [{}, {}]: {}", p.name, p.weight.rows, p.weight.cols, what));
  };
  int64_t size = 0;
  if (p.weight.rows <= 0 || !checked_mul(p.weight.rows, p.weight.cols, &size) || size <= 0)
    return wrong("has no elements");
  if (p.gradient.rows != p.weight.rows || p.gradient.cols != p.weight.cols)
    return wrong("its gradient has another shape");
  const std::vector<StateShape> shapes = shapes_of(recipe, p.weight.rows, p.weight.cols);
  if (!p.state || p.state->tensors.size() != shapes.size()) return wrong("its state is of another optimizer");
  for (size_t i = 0; i < shapes.size(); ++i) {
    const StateShape& have = p.state->tensors[i].shape;
    if (have.name != shapes[i].name || have.rows != shapes[i].rows || have.cols != shapes[i].cols ||
        std::ssize(p.state->tensors[i].values) != have.rows * have.cols)
      return wrong("its state is of another optimizer");
  }
  return Status();
}

// Elements [begin, begin + u.size()) of a parameter, all of them for parts that are not elementwise.
void apply_piece(const Recipe& recipe, double lr, const Parameter& p, int64_t begin, MatrixView u,
                 Scratch scratch, const Team& team) {
  std::copy_n(p.gradient.data + begin, u.size(), u.data);
  std::vector<float*> state;
  for (StateTensor& tensor : p.state->tensors) state.push_back(tensor.values.data() + begin);
  size_t used = 0;
  for (const Part& part : recipe.parts) {
    std::visit(
        [&](const auto& part_value) {
          const size_t count = part_value.state(p.weight.rows, p.weight.cols).size();
          PartContext context{p.state->step + 1, std::span<float* const>(state).subspan(used, count), scratch,
                              team};
          part_value.apply(context, u);
          used += count;
        },
        part);
  }
  const float keep = static_cast<float>(1 - lr * recipe.decay), rate = static_cast<float>(lr);
  float* w = p.weight.data + begin;
  team.blocks(u.size(), kBlockElements, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) w[i] = w[i] * keep - rate * u.data[i];
  });
}

struct Piece {
  const Parameter* parameter;
  int64_t begin, rows, cols;
};

std::vector<Piece> cut(const Recipe& recipe, std::span<const Parameter> parameters) {
  std::vector<Piece> pieces;
  const bool by_element = elementwise(recipe);
  for (const Parameter& p : parameters) {
    if (!by_element) {
      pieces.push_back({&p, 0, p.weight.rows, p.weight.cols});
      continue;
    }
    for (int64_t begin = 0; begin < p.weight.size(); begin += kBlockElements)
      pieces.push_back({&p, begin, 1, std::min(kBlockElements, p.weight.size() - begin)});
  }
  // Largest first: the threads then finish together.
  std::ranges::stable_sort(pieces,
                           [](const Piece& a, const Piece& b) { return a.rows * a.cols > b.rows * b.cols; });
  return pieces;
}

}  // namespace

Recipe muon(double decay, Orthogonalize how) { return {{HeavyBall{}, std::move(how), MatchRms{}}, decay}; }

Recipe adamw(double decay, AdamMoments moments) { return {{moments}, decay}; }

std::string describe(const Recipe& recipe) {
  std::string text = fmt::format("decay {}", recipe.decay);
  for (const Part& part : recipe.parts)
    text += ", " + std::visit([](const auto& p) { return words(p); }, part);
  return text;
}

Status check_recipe(const Recipe& recipe) {
  if (!(recipe.decay >= 0) || !std::isfinite(recipe.decay))
    return invalid(fmt::format("optimizer: weight decay is {}, but must be at least 0", recipe.decay));
  for (const Part& part : recipe.parts)
    MOEBIUS_TRY(std::visit([](const auto& p) { return p.check(); }, part));
  std::set<std::string> names{"step"};
  for (const StateShape& shape : shapes_of(recipe, 1, 1)) {
    if (!names.insert(shape.name).second)
      return invalid(fmt::format("optimizer: two parts keep a state named {}", shape.name));
  }
  return Status();
}

ParameterState make_state(const Recipe& recipe, int64_t rows, int64_t cols) {
  return make_state(shapes_of(recipe, rows, cols));
}

Status apply_step(const Recipe& recipe, double lr, std::span<const Parameter> parameters, ThreadPool& pool) {
  MOEBIUS_TRY(check_recipe(recipe));
  if (!(lr >= 0) || !std::isfinite(lr))
    return invalid(fmt::format("optimizer: learning rate is {}, but must be at least 0", lr));
  std::set<const ParameterState*> states;
  for (const Parameter& p : parameters) {
    MOEBIUS_TRY(check_parameter(recipe, p));
    if (!states.insert(p.state).second)
      return invalid(fmt::format("optimizer: parameter {} shares its state with another", p.name));
  }

  const std::vector<Piece> pieces = cut(recipe, parameters);
  const int64_t count = std::ssize(pieces);
  // A lane is a thread with its own scratch; with one lane, all threads work on one matrix at a time.
  const int64_t lanes = count >= pool.threads() ? pool.threads() : 1;
  int64_t floats = 0;
  for (const Piece& piece : pieces) floats = std::max(floats, scratch_of(recipe, piece.rows, piece.cols));
  MOEBIUS_ASSIGN(Buffer memory, Buffer::host(static_cast<size_t>(lanes * floats) * sizeof(float)));

  std::atomic<int64_t> next{0};
  const auto lane = [&](int64_t l, const Team& team) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      const Piece& piece = pieces[static_cast<size_t>(i)];
      Scratch scratch{memory.as<float>() + l * floats, floats};
      const MatrixView u{scratch.take(piece.rows * piece.cols), piece.rows, piece.cols};
      apply_piece(recipe, lr, *piece.parameter, piece.begin, u, scratch, team);
    }
  };
  if (lanes == 1)
    lane(0, Team{&pool});
  else
    parallel_for(pool, lanes, 1, [&](int64_t begin, int64_t) { lane(begin, Team{}); });
  for (const Parameter& p : parameters) ++p.state->step;
  return Status();
}

}  // namespace moebius::optim
