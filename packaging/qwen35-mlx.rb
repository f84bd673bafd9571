# The formula for Homebrew, for a tap of your own. The package is not published yet, so @URL@ and
# @SHA256@ stand for its source archive and the digest of that. At a release they are filled in by
#
#   packaging/fill_formula URL >Formula/qwen35-mlx.rb
#
# which downloads the archive. Homebrew on Apple Silicon alone: MLX has no Metal elsewhere.
class Qwen35Mlx < Formula
  include Language::Python::Virtualenv

  desc "Chat with Qwen3.5 on Apple Silicon, with MLX: terminal, server and converter"
  homepage "@HOMEPAGE@"
  url "@URL@"
  sha256 "@SHA256@"
  license "MIT"

  depends_on arch: :arm64
  depends_on macos: :sonoma
  depends_on "python@3.13"

  def install
    # MLX, tokenizers and others are wheels: building them takes a Metal compiler and Rust.
    # constraints.txt has the versions that the tests have run with.
    venv = virtualenv_create(libexec, "python3.13", without_pip: false)
    system venv.root/"bin/python", "-m", "pip", "install", "--no-compile",
           "--constraint", buildpath/"constraints.txt", buildpath
    bin.install_symlink venv.root/"bin/qwen35-chat", venv.root/"bin/qwen35-convert"
    man1.install_symlink libexec/"share/man/man1/qwen35-chat.1"
    generate_completions_from_executable(bin/"qwen35-chat", "--completions",
                                         shell_parameter_format: :none)
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/qwen35-chat --version")
    ENV["QWEN35_HOME"] = testpath
    answer = shell_output("#{bin}/qwen35-chat -p 'What is 12 + 30?' --model demo --temperature 0")
    assert_match "42", answer
  end
end
