import xml.etree.ElementTree as ElementTree

from hypothesis import given
from hypothesis import strategies as st

from service.dashboard.curve import curve_svg


@given(
    st.lists(
        st.tuples(st.integers(0, 10**9), st.floats(1e-6, 1e6)),
        min_size=1,
        max_size=20,
        unique_by=lambda p: p[0],
    )
)
def test_a_curve_is_an_image_with_every_rung_inside(points):
    points = sorted(points)
    image = ElementTree.fromstring(curve_svg(points, budget_tokens=max(points[-1][0], 1)))
    circles = list(image.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(circles) == len(points)
    for circle in circles:
        assert 0 <= float(circle.get("cx")) <= 640
        assert 0 <= float(circle.get("cy")) <= 300
    heights = [float(circle.get("cy")) for circle in circles]
    losses = [loss for _, loss in points]
    assert heights[losses.index(max(losses))] == min(heights)  # more loss is higher up
