# Packer 1.7 and later: `packer init .` fetches this plugin. Earlier versions have it built in.
packer {
  required_plugins {
    qemu = {
      source  = "github.com/hashicorp/qemu"
      version = "~> 1.1"
    }
  }
}
