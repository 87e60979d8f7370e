# Makes one image from another: a stage, which many labs share, from a cloud image, or a lab from
# its stage. The same for all of them: what differs comes from lab.auto.pkrvars.json and from the
# files beside this one, as data. To run it by hand:
#
#   cd THIS_DIRECTORY && packer build .

# Which script is run in the guest, without its .sh: "stage" or "install".
variable "step" { type = string }
variable "skip_compaction" { type = bool }
variable "image_url" { type = string }
variable "image_checksum" { type = string }
variable "disk_size" { type = string }
variable "memory_mb" { type = number }
variable "cpus" { type = number }
variable "accelerator" { type = string }
variable "cpu" { type = string }
# QEMU's option to run without rights once it has opened its files; empty for whoever has none.
variable "run_as" { type = list(list(string)) }

source "qemu" "lab" {
  # The image, copied and grown.
  iso_url            = var.image_url
  iso_checksum       = var.image_checksum
  disk_image         = true
  disk_size          = var.disk_size
  format             = "qcow2"
  disk_interface     = "virtio"
  disk_discard       = "unmap"
  disk_detect_zeroes = "unmap"
  skip_compaction    = var.skip_compaction

  accelerator = var.accelerator
  memory      = var.memory_mb
  cpus        = var.cpus
  boot_wait   = "1s"

  # Nobody looks at the screen, and no other user of this host shall.
  headless    = true
  disable_vnc = true

  # cloud-init reads http/user-data, which lets our key in as root. Neither it nor the SSH port can
  # be reached from another machine.
  http_directory    = "http"
  http_bind_address = "127.0.0.1"
  qemuargs = concat([
    ["-display", "none"],
    ["-vnc", "none"],
    # What its kernel and systemd say, for a build that stands still.
    ["-serial", "file:console.log"],
    ["-sandbox", "on,obsolete=deny,spawn=deny,resourcecontrol=deny"],
    ["-cpu", var.cpu],
    ["-netdev", "user,id=user.0,hostfwd=tcp:127.0.0.1:{{ .SSHHostPort }}-:22"],
    ["-smbios", "type=1,serial=ds=nocloud-net;s=http://{{ .HTTPIP }}:{{ .HTTPPort }}/"],
  ], var.run_as)

  communicator         = "ssh"
  ssh_username         = "root"
  ssh_private_key_file = "id_ed25519"
  ssh_timeout          = "15m"

  shutdown_command = "sh /var/tmp/cyyber/finish.sh"
  shutdown_timeout = "10m"

  output_directory = "out"
  vm_name          = "disk.qcow2"
}

build {
  sources = ["source.qemu.lab"]

  provisioner "file" {
    source      = "cyyber"
    destination = "/var/tmp"
  }

  provisioner "shell" {
    inline = ["sh /var/tmp/cyyber/${var.step}.sh"]
  }

  provisioner "file" {
    direction   = "download"
    source      = "/var/tmp/cyyber/report"
    destination = "report"
  }
}
