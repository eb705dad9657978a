"""Rails of INA3221 monitors, and the rails that make a board's total."""

import pytest
from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers.power import power_rails, rail_set


def test_nano_iio(boards, sampled):
    """JetPack 4's driver gives milliwatts, and a rail at 0 mW is 0.0 W."""
    assert sampled(power_rails(str(boards / "nano-r32.7.4/sys"))) == {
        "power_pom_5v_in_w": 4.521,
        "power_pom_5v_gpu_w": 1.193,
        "power_pom_5v_cpu_w": 0.0,
    }


def test_xavier_hwmon(boards, sampled):
    """Since JetPack 5 volts are multiplied by amperes, and other chips and sums of channels are no rails."""
    assert sampled(power_rails(str(boards / "agx-xavier-r35.4.1/sys"))) == {
        "power_gpu_w": 4.443264,
        "power_cpu_w": 0.918144,
        "power_soc_w": 1.53088,
        "power_cv_w": 0.0,
        "power_vddrq_w": 0.76544,
        "power_sys5v_w": 1.8,
    }


def test_unused_channels(boards, sampled):
    """Channels that are called NC, have no name or are switched off are left out."""
    assert sampled(power_rails(str(boards / "orin-nano-r36.3/sys"))) == {
        "power_vdd_in_w": 4.942464,
        "power_vdd_cpu_gpu_cv_w": 0.647168,
        "power_vdd_soc_w": 1.294336,
    }


def test_no_monitor(boards):
    """A board without a monitor has no rail and raises no error."""
    assert power_rails(str(boards / "x86/sys")) == []


def test_only_the_drivers_folder(board_copy, sampled):
    """Where the bus hides its devices, the rails are found in the driver's folder."""
    board = board_copy("nano-r32.7.4")
    drivers = board / "sys/bus/i2c/drivers/ina3221x"
    drivers.mkdir(parents=True)
    (board / "sys/bus/i2c/devices/6-0040").rename(drivers / "6-0040")

    assert sampled(power_rails(str(board / "sys")))["power_pom_5v_in_w"] == 4.521


def test_values_are_read_again(board_copy):
    """An open file gives the current value, and None once its device is gone."""
    board = board_copy("nano-r32.7.4")
    rail = power_rails(str(board / "sys"))[0]
    path = board / "sys/bus/i2c/devices/6-0040/iio:device0/in_power0_input"

    seen = [rail.sample()]
    path.write_text("5000\n")
    seen.append(rail.sample())
    rail.close()
    path.unlink()
    seen.append(rail.sample())

    assert seen == [4.521, 5.0, None]


def test_broken(board_copy):
    """A rail whose file cannot be parsed is a SensorError that names the file."""
    board = board_copy("orin-nano-r36.3")
    rail = power_rails(str(board / "sys"))[0]
    (board / "sys/bus/i2c/devices/1-0040/hwmon/hwmon1/curr1_input").write_text("much\n")

    with pytest.raises(SensorError, match="hwmon1/curr1_input: 'much' is not a whole number"):
        rail.sample()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU"], ("POM_5V_IN", ["POM_5V_IN"])),
        (["VDD_SOC", "VDD_CPU_GPU_CV", "VDD_IN"], ("VDD_IN", ["VDD_IN"])),
        (["vdd_in"], ("VDD_IN", ["VDD_IN"])),
        (["VDD_GPU", "VIN"], ("VIN", ["VIN"])),
        (
            ["CV", "VDDRQ", "SYS5V", "GPU", "CPU", "SOC"],
            ("GPU+CPU+SOC+CV+VDDRQ+SYS5V", ["GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"]),
        ),
        (["GPU", "CPU", "SOC", "CV", "VDDRQ"], None),
        (["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"], None),
        ([], None),
    ],
)
def test_rail_set(names, expected):
    """The board's total is one rail, six on an AGX Xavier, or unknown."""
    assert rail_set(names) == expected
